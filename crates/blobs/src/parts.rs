//! Blobs by weight: how many are read at once. Pure.

use std::num::NonZeroU64;

/// What a blob counts for whose length nobody tells. Most are far smaller; where lengths are unknown, few are read at once.
const UNKNOWN_BYTES: usize = 1024 * 1024;

/// Bytes that a blob counts for before it is read. Nothing, as a length, is what is written where nobody knew it.
pub fn expected_bytes(told: Option<u64>) -> usize {
    told.and_then(NonZeroU64::new).map_or(UNKNOWN_BYTES, |length| {
        usize::try_from(length.get()).unwrap_or(usize::MAX)
    })
}

/// Cuts items into parts of at most so much weight, in their order. An item above it is a part of its own.
pub fn in_parts<T>(items: Vec<T>, weight: impl Fn(&T) -> usize, limit: usize) -> Vec<Vec<T>> {
    let mut parts: Vec<Vec<T>> = Vec::new();
    let mut free = 0;
    for item in items {
        let weight = weight(&item);
        match parts.last_mut() {
            Some(part) if weight <= free => {
                free -= weight;
                part.push(item);
            }
            _ => {
                free = limit.saturating_sub(weight);
                parts.push(vec![item]);
            }
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_hold_no_more_than_they_may() {
        let parts = |weights: &[usize]| in_parts(weights.to_vec(), |weight| *weight, 10);
        assert_eq!(parts(&[]), Vec::<Vec<usize>>::new());
        assert_eq!(parts(&[1, 2, 7, 1]), [vec![1, 2, 7], vec![1]]);
        assert_eq!(parts(&[30, 1, 9, 11, 0]), [vec![30], vec![1, 9], vec![11, 0]]);
    }

    #[test]
    fn what_nobody_knows_the_length_of_has_weight() {
        assert_eq!(expected_bytes(Some(1840)), 1840);
        assert_eq!(expected_bytes(Some(1)), 1);
        for unknown in [None, Some(0)] {
            let blobs = vec![unknown; 40];
            let parts = in_parts(blobs, |told| expected_bytes(*told), 16 * 1024 * 1024);
            assert_eq!(parts.iter().map(Vec::len).collect::<Vec<_>>(), [16, 16, 8]);
        }
    }
}
