//! A sorted map that also knows ranks: how many keys stand before a given one.
//!
//! CouchDB's B-trees carry reductions, so that `offset`, `pending`, `skip` and `_count` cost the depth of the
//! tree and not the number of rows. A `BTreeMap` cannot do that; sorted blocks can, at the price of a short sum.

use std::borrow::Borrow;
use std::ops::Range;

/// Entries per block before it splits: moving half of them costs about as much as finding the block.
const BLOCK: usize = 512;

/// A sorted map with ranks.
#[derive(Debug)]
pub(crate) struct OrderedIndex<K, V> {
    blocks: Vec<Vec<(K, V)>>,
    len: usize,
}

impl<K, V> Default for OrderedIndex<K, V> {
    fn default() -> Self {
        Self {
            blocks: Vec::new(),
            len: 0,
        }
    }
}

impl<K: Ord, V> OrderedIndex<K, V> {
    /// Number of entries.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The block that holds `key`, or would, and the place in it. The block may be one past the last.
    fn find<Q>(&self, key: &Q) -> (usize, Result<usize, usize>)
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        let block = self
            .blocks
            .partition_point(|entries| entries.last().is_some_and(|(last, _)| last.borrow() < key));
        let place = match self.blocks.get(block) {
            Some(entries) => entries.binary_search_by(|(candidate, _)| candidate.borrow().cmp(key)),
            None => Err(0),
        };
        (block, place)
    }

    /// Adds or replaces an entry.
    pub(crate) fn insert(&mut self, key: K, value: V) {
        let (mut block, place) = self.find(&key);
        let mut place = match place {
            Ok(place) => {
                self.blocks[block][place].1 = value;
                return;
            }
            Err(place) => place,
        };
        if block == self.blocks.len() {
            match self.blocks.last() {
                Some(last) => {
                    block -= 1;
                    place = last.len();
                }
                None => self.blocks.push(Vec::new()),
            }
        }
        let entries = &mut self.blocks[block];
        entries.insert(place, (key, value));
        self.len += 1;
        if entries.len() > BLOCK {
            // A block that grows at its end is being filled in order: leave it nearly full.
            let keep = if place + 1 == entries.len() { BLOCK } else { BLOCK / 2 };
            let tail = entries.split_off(keep);
            self.blocks.insert(block + 1, tail);
        }
    }

    /// Takes an entry out.
    pub(crate) fn remove<Q>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        let (block, place) = self.find(key);
        let place = place.ok()?;
        let (_, value) = self.blocks[block].remove(place);
        if self.blocks[block].is_empty() {
            self.blocks.remove(block);
        }
        self.len -= 1;
        Some(value)
    }

    /// The value of a key.
    pub(crate) fn get<Q>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        let (block, place) = self.find(key);
        place.ok().map(|place| &self.blocks[block][place].1)
    }

    /// How many keys are smaller than `key`.
    pub(crate) fn rank<Q>(&self, key: &Q) -> usize
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        let (block, place) = self.find(key);
        let before: usize = self.blocks[..block].iter().map(Vec::len).sum();
        before + place.unwrap_or_else(|place| place)
    }

    /// The entries of a range of ranks, which may be read from either end.
    pub(crate) fn range(&self, ranks: Range<usize>) -> impl DoubleEndedIterator<Item = &(K, V)> {
        let end = ranks.end.min(self.len);
        let start = ranks.start.min(end);
        let (first_block, first_place) = self.locate(start);
        let (last_block, last_place) = self.locate(end);
        let blocks = if start == end {
            0..0
        } else {
            first_block..(last_block + 1).min(self.blocks.len())
        };
        let base = blocks.start;
        self.blocks[blocks].iter().enumerate().flat_map(move |(at, entries)| {
            let block = base + at;
            let from = if block == first_block { first_place } else { 0 };
            let to = if block == last_block { last_place } else { entries.len() };
            &entries[from..to]
        })
    }

    /// Block and place of a rank; one past the end for the rank behind the last entry.
    fn locate(&self, rank: usize) -> (usize, usize) {
        let mut left = rank;
        for (block, entries) in self.blocks.iter().enumerate() {
            if left < entries.len() {
                return (block, left);
            }
            left -= entries.len();
        }
        (self.blocks.len(), left)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_like_a_btree_map(steps in prop::collection::vec((any::<bool>(), 0u32..3000), 0..4000), at in 0u32..3000) {
            let mut index = OrderedIndex::default();
            let mut model = BTreeMap::new();
            for (number, (add, key)) in steps.into_iter().enumerate() {
                if add {
                    index.insert(key, number);
                    model.insert(key, number);
                } else {
                    prop_assert_eq!(index.remove(&key), model.remove(&key));
                }
            }
            prop_assert_eq!(index.len(), model.len());
            prop_assert_eq!(index.rank(&at), model.range(..at).count());
            prop_assert_eq!(index.rank(&at) < index.len(), model.range(at..).next().is_some());
            let from = index.rank(&at);
            let forward: Vec<u32> = index.range(from..from + 700).map(|(key, _)| *key).collect();
            let expected: Vec<u32> = model.range(at..).take(700).map(|(key, _)| *key).collect();
            prop_assert_eq!(forward, expected);
            let backward: Vec<u32> = index.range(0..from).rev().map(|(key, _)| *key).collect();
            let expected: Vec<u32> = model.range(..at).rev().map(|(key, _)| *key).collect();
            prop_assert_eq!(backward, expected);
        }
    }

    #[test]
    fn in_order_and_reverse_order_fill() {
        let mut up = OrderedIndex::default();
        let mut down = OrderedIndex::default();
        for number in 0..5000u32 {
            up.insert(number, ());
            down.insert(4999 - number, ());
        }
        for index in [&up, &down] {
            assert_eq!(
                index.range(0..usize::MAX).map(|(key, ())| *key).collect::<Vec<_>>(),
                (0..5000).collect::<Vec<_>>()
            );
            assert_eq!(index.rank(&1234), 1234);
            assert!(index.get(&5000).is_none());
        }
    }
}
