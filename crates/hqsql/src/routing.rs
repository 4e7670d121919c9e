//! Which database an id belongs to, as HQ and PL/Proxy compute it: the low bits of SipHash-2-4 of the id's bytes give the
//! logical shard, and each database holds a contiguous range of those.

use std::fmt;

use crate::config::TargetConfig;
use crate::error::{Error, Result};

/// A database that holds forms and cases. Not HQ's logical shard: several of those share a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub(crate) u32);

impl ShardId {
    /// Position in the configured list of shard databases.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The map from logical shards to databases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Routing {
    mask: u32,
    /// Last logical shard of each database, ascending.
    last: Vec<u32>,
}

impl Routing {
    /// Checks HQ's rules: a power of two, starting at 0, without gap or overlap.
    pub(crate) fn new(config: &TargetConfig) -> Result<Self> {
        let wrong = |text: String| Err(Error::Config(text));
        let Some(count) = config.shard_count else {
            if config.shards.is_empty() {
                return Ok(Self { mask: 0, last: vec![0] });
            }
            return wrong("shards are listed, but shard_count is missing".to_owned());
        };
        if !count.is_power_of_two() {
            return wrong(format!("shard_count is {count}, which is not a power of two"));
        }
        if config.shards.is_empty() {
            return wrong(format!("shard_count is {count}, but no shards are listed"));
        }
        let mut next = 0;
        let mut last = Vec::with_capacity(config.shards.len());
        for shard in &config.shards {
            let (first, end) = shard.range;
            if first != next {
                return wrong(format!(
                    "shard range [{first}, {end}] should start at {next}: ranges begin at 0 and follow one another"
                ));
            }
            if end < first || end >= count {
                return wrong(format!("shard range [{first}, {end}] does not fit into {count} shards"));
            }
            last.push(end);
            next = end + 1;
        }
        if next != count {
            return wrong(format!("shard ranges end at {}, but shard_count is {count}", next - 1));
        }
        Ok(Self { mask: count - 1, last })
    }

    /// HQ's logical shard of an id.
    pub(crate) fn logical(&self, id: &str) -> u32 {
        proto::bucket::hash32(id) & self.mask
    }

    /// The database of an id.
    pub(crate) fn shard_of(&self, id: &str) -> ShardId {
        let logical = self.logical(id);
        let index = self.last.partition_point(|last| *last < logical);
        // There are never more databases than logical shards, which are u32.
        ShardId(u32::try_from(index).unwrap_or(u32::MAX))
    }

    /// All databases.
    pub(crate) fn shards(&self) -> impl Iterator<Item = ShardId> + use<> {
        (0..u32::try_from(self.last.len()).unwrap_or(u32::MAX)).map(ShardId)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::hash::Hasher;

    use siphasher::sip::SipHasher24;

    use super::*;
    use crate::config::{ConnectionConfig, ShardConfig};

    fn routing(count: Option<u32>, ranges: &[(u32, u32)]) -> Result<Routing> {
        let mut config = TargetConfig::new(ConnectionConfig::new("postgres://localhost/hq"));
        config.shard_count = count;
        config.shards = ranges
            .iter()
            .map(|range| ShardConfig {
                range: *range,
                connection: ConnectionConfig::new("postgres://localhost/p"),
            })
            .collect();
        Routing::new(&config)
    }

    /// Text, low 32 bits of its hash, logical shard of 4, 16, 128 and 1024.
    const VECTORS: [(&str, u32, [u32; 4]); 9] = [
        ("403724ef9fe141f2908363918c62c2ff", 1_414_919_873, [1, 1, 65, 705]),
        ("403724ef-9fe1-41f2-9083-63918c62c2ff", 882_495_954, [2, 2, 82, 466]),
        ("7f28b4e409884d0c838678260f9c34dd", 1_232_690_990, [2, 14, 46, 814]),
        ("0", 882_925_130, [2, 10, 74, 586]),
        ("1", 3_146_605_522, [2, 2, 82, 978]),
        ("2", 2_896_194_439, [3, 7, 7, 903]),
        ("1000", 1_021_997_069, [1, 13, 13, 13]),
        ("é", 215_900_440, [0, 8, 24, 280]),
        ("", 1_937_178_839, [3, 7, 87, 215]),
    ];

    #[test]
    fn text_vectors() {
        for (id, low, shards) in VECTORS {
            assert_eq!(proto::bucket::hash32(id), low, "{id}");
            for (count, shard) in [4, 16, 128, 1024].into_iter().zip(shards) {
                assert_eq!(
                    routing(Some(count), &[(0, count - 1)]).unwrap().logical(id),
                    shard,
                    "{id} of {count}"
                );
            }
        }
    }

    /// HQ's own vector hashes the raw bytes of a UUID.
    #[test]
    fn raw_bytes_vector() {
        let mut hasher = SipHasher24::new_with_keys(0, 0);
        hasher.write(
            uuid::Uuid::parse_str("403724ef9fe141f2908363918c62c2ff")
                .unwrap()
                .as_bytes(),
        );
        let low = u32::try_from(hasher.finish() & 0xffff_ffff).unwrap();
        assert_eq!(low, 1_415_444_857);
        assert_eq!([low & 3, low & 15, low & 127, low & 1023], [1, 9, 121, 377]);
    }

    /// HQ's test layout: 1024 logical shards on five databases.
    #[test]
    fn ranges_to_databases() {
        let ranges = [(0, 204), (205, 409), (410, 614), (615, 819), (820, 1023)];
        let routing = routing(Some(1024), &ranges).unwrap();
        assert_eq!(routing.shards().count(), 5);
        for (id, _, shards) in VECTORS {
            let expected = ranges
                .iter()
                .position(|(first, last)| (*first..=*last).contains(&shards[3]))
                .unwrap();
            assert_eq!(routing.shard_of(id).index(), expected, "{id}");
        }
    }

    #[test]
    fn without_shards_everything_is_in_one_database() {
        let routing = routing(None, &[]).unwrap();
        for (id, _, _) in VECTORS {
            assert_eq!(routing.shard_of(id), ShardId(0));
        }
    }

    #[test]
    fn ranges_are_checked() {
        for (count, ranges) in [
            (None, &[(0, 3)][..]),
            (Some(4), &[]),
            (Some(6), &[(0, 5)]),
            (Some(0), &[(0, 0)]),
            (Some(4), &[(1, 3)]),
            (Some(4), &[(0, 1), (3, 3)]),
            (Some(4), &[(0, 2), (2, 3)]),
            (Some(4), &[(0, 1), (2, 4)]),
            (Some(4), &[(0, 1), (2, 2)]),
            (Some(4), &[(2, 3), (0, 1)]),
        ] {
            assert!(
                matches!(routing(count, ranges), Err(Error::Config(_))),
                "{count:?} {ranges:?}"
            );
        }
    }
}
