//! Hash buckets: the unit of locking on the target and of partitioning in the state schema.

use std::hash::Hasher;

use siphasher::sip::SipHasher24;

/// How many buckets there are. Enough that some dozen workers seldom want the same one; few enough that a small domain
/// does not make hundreds of tiny batches.
pub const BUCKETS: u16 = 256;

/// The bucket of a document id: the low bits of the same SipHash-2-4 that HQ shards by. All documents of one bucket are
/// therefore on one shard whenever HQ has at most [`BUCKETS`] shards, but nothing relies on that.
pub fn of(id: &str) -> i16 {
    let bucket = hash32(id) % u32::from(BUCKETS);
    i16::try_from(bucket).expect("below BUCKETS, which fits")
}

/// The low 32 bits of SipHash-2-4 of the text's bytes with a zero key, as HQ and PL/Proxy compute it.
pub fn hash32(id: &str) -> u32 {
    let mut hasher = SipHasher24::new_with_keys(0, 0);
    hasher.write(id.as_bytes());
    u32::try_from(hasher.finish() & 0xffff_ffff).expect("masked to 32 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Vectors of HQ's own sharding: low 32 bits of the hash of the text.
    #[test]
    fn hash_agrees_with_hq() {
        for (id, low) in [
            ("403724ef9fe141f2908363918c62c2ff", 1_414_919_873),
            ("403724ef-9fe1-41f2-9083-63918c62c2ff", 882_495_954),
            ("7f28b4e409884d0c838678260f9c34dd", 1_232_690_990),
            ("0", 882_925_130),
            ("1", 3_146_605_522),
            ("é", 215_900_440),
            ("", 1_937_178_839),
        ] {
            assert_eq!(hash32(id), low, "{id}");
        }
        assert_eq!(u32::from(of("1000").unsigned_abs()), 1_021_997_069 % 256);
    }
}
