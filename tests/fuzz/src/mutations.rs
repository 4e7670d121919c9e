//! Damage to bytes.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use crate::inputs::MAX_INPUT_BYTES;

/// Pieces that readers of XML and JSON stumble over.
const PIECES: &[&[u8]] = &[
    b"<",
    b">",
    b"/>",
    b"</",
    b"<a>",
    b"</a>",
    b"<a/>",
    b"=",
    b"'",
    b"\"",
    b"&",
    b";",
    b"&amp;",
    b"&#x41;",
    b"&#0;",
    b"&#xD800;",
    b"&#x10FFFF;",
    b"<!--",
    b"-->",
    b"--",
    b"<![CDATA[",
    b"]]>",
    b"<?xml version='1.0'?>",
    b"<?pi x?>",
    b"<!DOCTYPE a [",
    b"<!ENTITY e 'x'>",
    b"&e;",
    b"]>",
    b" xmlns='u'",
    b" xmlns=''",
    b" xmlns:p='u'",
    b"p:",
    b":",
    b"\0",
    b"\x01",
    b"\xff",
    b"\xfe\xff",
    b"\xef\xbb\xbf",
    b"\xef\xbf\xbe",
    b"\xed\xa0\x80",
    b"\xc0\x80",
    b"\xf4\x90\x80\x80",
    b"\r\n",
    b"\r",
    b"\t",
    b"\xe2\x80\xa8",
    b"\xf0\x9f\x98\x80",
    b"case_id",
    b"@case_id",
    b"2015-08-04T18:25:56.656+02",
    b"0001-01-01T00:00:00+23:59",
    b"9999-12-31T23:59:59-23:59",
    b"1e999",
    b"nan",
    b"-0",
    b"null",
    b"{}",
    b"[]",
    b",",
    b"[",
    b"{\"a\":",
    b"\\u0000",
    b"\\ud800",
    b"<balance xmlns='http://commcarehq.org/ledger/v1'",
    b"</case>",
];

/// Damages the bytes in a few places.
pub(crate) fn mutate(rng: &mut StdRng, bytes: &mut Vec<u8>) {
    for _ in 0..rng.random_range(1..=8) {
        once(rng, bytes);
        bytes.truncate(MAX_INPUT_BYTES);
    }
}

fn once(rng: &mut StdRng, bytes: &mut Vec<u8>) {
    let at = rng.random_range(0..=bytes.len());
    let end = (at + rng.random_range(0..=64)).min(bytes.len());
    match rng.random_range(0..8) {
        0 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << rng.random_range(0..8);
            }
        }
        1 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = rng.random();
            }
        }
        2 => drop(bytes.drain(at..end)),
        3 => bytes.truncate(at),
        4 => {
            let piece = bytes[at..end].to_vec();
            let to = rng.random_range(0..=bytes.len());
            drop(bytes.splice(to..to, piece));
        }
        5 => {
            // Now and then as often as it fits: what costs little once may cost much a thousand times.
            let piece = bytes[at..end].repeat(repeats(rng, end - at));
            drop(bytes.splice(at..end, piece));
        }
        6 => {
            let piece = PIECES.choose(rng).copied().unwrap_or_default();
            let piece = piece.repeat(repeats(rng, piece.len()));
            drop(bytes.splice(at..at, piece));
        }
        _ => {
            let piece = PIECES.choose(rng).copied().unwrap_or_default();
            drop(bytes.splice(at..end, piece.iter().copied()));
        }
    }
}

/// Mostly once.
fn repeats(rng: &mut StdRng, length: usize) -> usize {
    if rng.random_bool(0.9) {
        1
    } else {
        rng.random_range(1..=MAX_INPUT_BYTES / length.max(1))
    }
}
