//! Compressed blobs.

use std::io::Read as _;

use bytes::Bytes;
use flate2::read::MultiGzDecoder;

use crate::error::{Error, Result};

/// The plain bytes of a blob whose row has a `compressed_length`. `limit` bounds them, so that a small blob cannot fill the
/// memory.
pub fn gunzip(compressed: &[u8], limit: usize) -> Result<Bytes> {
    let mut plain = Vec::new();
    let bound = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    MultiGzDecoder::new(compressed)
        .take(bound)
        .read_to_end(&mut plain)
        .map_err(|source| Error::BadGzip { source })?;
    if plain.len() > limit {
        Err(Error::TooLarge { limit })
    } else {
        Ok(plain.into())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn gzip(plain: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn decompresses_up_to_the_limit() {
        let compressed = gzip(&[b'x'; 1000]);
        assert_eq!(gunzip(&compressed, 1000).unwrap(), vec![b'x'; 1000]);
        assert_eq!(gunzip(&compressed, 999).unwrap_err().code(), "C2S-1207");
    }

    #[test]
    fn damage_is_noticed() {
        let compressed = gzip(b"<data/>");
        assert_eq!(
            gunzip(&compressed[..compressed.len() - 4], 100).unwrap_err().code(),
            "C2S-1208"
        );
        assert_eq!(gunzip(b"<data/>", 100).unwrap_err().code(), "C2S-1208");
    }
}
