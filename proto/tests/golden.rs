//! The wire format of batch messages, byte by byte, and what the decoder does with bytes that are not one.
//!
//! The golden bytes were put together from the MessagePack specification, not by this encoder: a change of the wire format
//! must come with a new version and new bytes here.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use proto::doctype::DocType;
use proto::ids::{BatchId, Domain, Epoch};
use proto::message::{BatchBody, BatchMessage, DecodeError, MAX_BYTES, VERSION};

/// Stack of a tokio worker thread, where messages are decoded.
const WORKER_STACK: usize = 2 * 1024 * 1024;

fn message(domain: &str, epoch: i64, batch_id: i64, attempt: i32, body: BatchBody) -> BatchMessage {
    BatchMessage {
        version: VERSION,
        domain: Domain::new(domain),
        epoch: Epoch(epoch),
        batch_id: BatchId(batch_id),
        attempt,
        body,
    }
}

/// (name, message, bytes in hex), at least one for each kind of body.
fn golden() -> Vec<(&'static str, BatchMessage, &'static str)> {
    let epoch = (1 << 32) | 0x9e37_79b9;
    vec![
        (
            "form",
            message(
                "demo",
                epoch,
                7,
                0,
                BatchBody::Form {
                    doc_type: DocType::XFormInstance,
                    count: 500,
                },
            ),
            "86a776657273696f6e01a6646f6d61696ea464656d6fa565706f6368cf000000019e3779b9a862617463685f696407a7617474656d7074\
             00a4626f647983a57374616765a4666f726da8646f635f74797065ad58466f726d496e7374616e6365a5636f756e74cd01f4",
        ),
        (
            "form of a type whose name is not an identifier",
            message(
                "demo",
                epoch,
                7,
                0,
                BatchBody::Form {
                    doc_type: DocType::XFormInstanceDeleted,
                    count: 1,
                },
            ),
            "86a776657273696f6e01a6646f6d61696ea464656d6fa565706f6368cf000000019e3779b9a862617463685f696407a7617474656d7074\
             00a4626f647983a57374616765a4666f726da8646f635f74797065b558466f726d496e7374616e63652d44656c65746564a5636f756e74\
             01",
        ),
        (
            "case",
            message("demo", epoch, 128, 3, BatchBody::Case { count: 250 }),
            "86a776657273696f6e01a6646f6d61696ea464656d6fa565706f6368cf000000019e3779b9a862617463685f6964cc80a7617474656d70\
             7403a4626f647982a57374616765a463617365a5636f756e74ccfa",
        ),
        (
            "diff",
            message("ünï", 2 << 32, 65_536, 1, BatchBody::Diff { count: 70_000 }),
            "86a776657273696f6e01a6646f6d61696ea5c3bc6ec3afa565706f6368cf0000000200000000a862617463685f6964ce00010000a76174\
             74656d707401a4626f647982a57374616765a464696666a5636f756e74ce00011170",
        ),
    ]
}

#[test]
fn every_kind_has_its_bytes() {
    for (name, message, bytes) in golden() {
        assert_eq!(hex::encode(message.encode()), bytes, "encoding of {name}");
        assert_eq!(
            BatchMessage::decode(&hex::decode(bytes).unwrap()).unwrap(),
            message,
            "decoding of {name}"
        );
    }
    let kinds: Vec<_> = golden().iter().map(|(_, message, _)| message.body.stage()).collect();
    for stage in proto::topology::Stage::ALL {
        assert!(kinds.contains(&stage), "no golden bytes for {stage:?}");
    }
}

/// A newer writer of the same version may add fields; older readers pass over them.
#[test]
fn unknown_fields_are_passed_over() {
    let (_, expected, bytes) = golden().remove(2);
    let mut bytes = hex::decode(bytes).unwrap();
    bytes[0] = 0x87; // a map of seven
    bytes.extend(b"\xa5extra\x93\x01\xc0\xa1x"); // extra: [1, nil, "x"]
    assert_eq!(BatchMessage::decode(&bytes).unwrap(), expected);
}

#[test]
fn oversize_is_refused_whatever_it_holds() {
    let mut bytes = golden().remove(0).1.encode();
    bytes.resize(MAX_BYTES + 1, 0xc0);
    assert!(matches!(BatchMessage::decode(&bytes), Err(DecodeError::Oversize(size)) if size == MAX_BYTES + 1));

    let large = message(&"d".repeat(MAX_BYTES), 1, 1, 0, BatchBody::Case { count: 1 }).encode();
    assert!(matches!(BatchMessage::decode(&large), Err(DecodeError::Oversize(_))));
}

#[test]
fn other_versions_are_named_even_when_their_shape_is_unknown() {
    let mut bytes = golden().remove(0).1.encode();
    assert_eq!(bytes[9], 1, "the version follows its key");
    bytes[9] = 2;
    assert!(matches!(BatchMessage::decode(&bytes), Err(DecodeError::Version(2))));

    // {version: 300, surprise: true}
    let bytes = b"\x82\xa7version\xcd\x01\x2c\xa8surprise\xc3";
    let error = BatchMessage::decode(bytes).unwrap_err();
    assert!(matches!(error, DecodeError::Version(300)));
    assert!(
        error.to_string().contains("300") && error.to_string().contains("reads version 1"),
        "{error}"
    );
}

#[test]
fn trailing_bytes_are_counted() {
    for (name, message, _) in golden() {
        let mut bytes = message.encode();
        bytes.extend([0xc0, 0x00, 0xff]);
        assert!(
            matches!(BatchMessage::decode(&bytes), Err(DecodeError::Trailing(3))),
            "{name}"
        );
    }
}

#[test]
fn every_prefix_is_malformed() {
    for (name, message, _) in golden() {
        let bytes = message.encode();
        for end in 0..bytes.len() {
            assert!(
                matches!(BatchMessage::decode(&bytes[..end]), Err(DecodeError::Malformed(_))),
                "{name}, first {end} bytes"
            );
        }
    }
}

#[test]
fn junk_is_malformed() {
    let wrong_stage = hex::encode(golden().remove(2).1.encode()).replace("a463617365", "a463616665"); // "cafe"
    let negative_count = hex::encode(golden().remove(2).1.encode()).replace("ccfa", "d0fa");
    let unknown_type = hex::encode(golden().remove(0).1.encode())
        .replace("ad58466f726d496e7374616e6365", "ad58466f726d496e7374616e6366"); // "XFormInstancf"
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", vec![]),
        ("text", b"hello, this is not a batch".to_vec()),
        ("JSON", br#"{"version":1,"domain":"demo"}"#.to_vec()),
        ("nil", vec![0xc0]),
        ("the reserved marker", vec![0xc1]),
        ("an empty map", vec![0x80]),
        ("version only", b"\x81\xa7version\x01".to_vec()),
        ("version as text", b"\x81\xa7version\xa11".to_vec()),
        (
            "version that fits no number",
            b"\x81\xa7version\xcf\xff\xff\xff\xff\xff\xff\xff\xff".to_vec(),
        ),
        (
            "domain that is not UTF-8",
            b"\x82\xa7version\x01\xa6domain\xa2\xff\xfe".to_vec(),
        ),
        ("unknown stage", hex::decode(wrong_stage).unwrap()),
        ("negative count", hex::decode(negative_count).unwrap()),
        ("unknown doc type", hex::decode(unknown_type).unwrap()),
    ];
    for (name, bytes) in cases {
        assert!(
            matches!(BatchMessage::decode(&bytes), Err(DecodeError::Malformed(_))),
            "{name}"
        );
    }
}

/// The error text is for logs: it must not carry what the bytes held.
#[test]
fn errors_do_not_quote_the_message() {
    let secret = "Amina Diallo";
    let mut bytes = b"\x83\xa7version\x01\xa6domain\xac".to_vec();
    bytes.extend(secret.as_bytes());
    bytes.extend(b"\xa5epoch\xa1x");
    let error = BatchMessage::decode(&bytes).unwrap_err();
    assert!(!error.to_string().contains(secret));
}

fn nested(open: &[u8], levels: usize) -> Vec<u8> {
    let mut bytes = b"\x82\xa7version\x01\xa4body\x81\xa1x".to_vec();
    for _ in 0..levels {
        bytes.extend(open);
    }
    bytes.push(0xc0);
    bytes
}

/// Bytes that promise far more than they hold, or nest deeper than any stack, in every place where a reader would believe them.
fn hostile() -> Vec<(String, Vec<u8>)> {
    let mut cases = Vec::new();
    for (name, marker) in [
        ("text", b"\xdb\xff\xff\xff\xff"),
        ("binary", b"\xc6\xff\xff\xff\xff"),
        ("array", b"\xdd\xff\xff\xff\xff"),
        ("map", b"\xdf\xff\xff\xff\xff"),
        ("extension", b"\xc9\xff\xff\xff\xff"),
    ] {
        for (place, prefix) in [
            ("message", &b""[..]),
            ("version", b"\x81\xa7version"),
            ("domain", b"\x82\xa7version\x01\xa6domain"),
            ("body", b"\x82\xa7version\x01\xa4body"),
            ("body's field", b"\x82\xa7version\x01\xa4body\x81\xa8doc_type"),
            ("unknown field", b"\x82\xa7version\x01\xa5extra"),
        ] {
            cases.push((format!("{name} of 4 GiB as {place}"), [prefix, marker].concat()));
        }
    }
    let room = MAX_BYTES - 64;
    for (name, open) in [
        ("arrays of one", &b"\x91"[..]),
        ("maps of one", b"\x81\xa1a"),
        ("arrays of 4 billion", b"\xdd\xff\xff\xff\xff"),
        ("maps of 4 billion", b"\xdf\xff\xff\xff\xff\xa1a"),
    ] {
        for levels in [900, 1_020, 1_030, room / open.len()] {
            cases.push((
                format!("{levels} nested {name}"),
                nested(open, levels.min(room / open.len())),
            ));
        }
    }
    cases
}

/// Peak of this process's resident memory in KiB, where the system tells.
fn peak_resident_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[test]
fn hostile_bytes_cost_neither_memory_nor_stack() {
    let cases = hostile();
    let before = peak_resident_kib();
    let decoding = std::thread::Builder::new().stack_size(WORKER_STACK).spawn(move || {
        for (name, bytes) in cases {
            assert!(bytes.len() <= MAX_BYTES, "{name} must not be refused for its size");
            assert!(
                matches!(BatchMessage::decode(&bytes), Err(DecodeError::Malformed(_))),
                "{name}"
            );
        }
    });
    decoding.unwrap().join().unwrap();
    if let (Some(before), Some(after)) = (before, peak_resident_kib()) {
        // Other tests of this process run beside this one; a believed length would show as gigabytes.
        assert!(after - before < 64 * 1024, "peak grew from {before} to {after} KiB");
    }
}

fn any_body() -> impl Strategy<Value = BatchBody> {
    prop_oneof![
        (prop::sample::select(&DocType::ALL[..]), any::<u32>())
            .prop_map(|(doc_type, count)| BatchBody::Form { doc_type, count }),
        any::<u32>().prop_map(|count| BatchBody::Case { count }),
        any::<u32>().prop_map(|count| BatchBody::Diff { count }),
    ]
}

fn any_message() -> impl Strategy<Value = BatchMessage> {
    (any::<String>(), any::<i64>(), any::<i64>(), any::<i32>(), any_body())
        .prop_map(|(domain, epoch, batch_id, attempt, body)| message(&domain, epoch, batch_id, attempt, body))
}

proptest! {
    #[test]
    fn round_trip(message in any_message()) {
        prop_assert_eq!(BatchMessage::decode(&message.encode()).unwrap(), message);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..2_000)) {
        let _ = BatchMessage::decode(&bytes);
    }

    /// Damage to a real message reaches deeper into the decoder than noise does.
    #[test]
    fn damaged_messages_never_panic(
        message in any_message(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = message.encode();
        for (place, byte) in damage {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        let _ = BatchMessage::decode(&bytes);
    }
}
