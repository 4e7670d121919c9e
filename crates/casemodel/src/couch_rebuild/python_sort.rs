//! Sorting as Python's `sorted` does it, for a comparison that is no order.
//!
//! What an inconsistent comparison gives depends on which elements are compared. Python finds runs, makes short ones longer
//! by binary insertion, and merges neighbours; so does this. Lists of fewer than 64 elements come out exactly as in Python.
//! For longer ones Python's merge may leap over elements that this one looks at, which makes a difference only where the
//! comparison contradicts itself. The standard library's sort may panic on such a comparison.

/// Runs are at least about half as long, so that there are about a power of two of them.
const SHORT: usize = 64;

/// A run: where it starts and how long it is.
#[derive(Clone, Copy)]
struct Run {
    start: usize,
    length: usize,
}

/// Sorts, keeping equal elements in their order. `is_less` may contradict itself; each call takes `O(n log n)` of them.
pub(super) fn sort_by<T: Copy>(items: &mut [T], is_less: impl Fn(&T, &T) -> bool) {
    let minimum = shortest_run(items.len());
    let mut runs: Vec<Run> = Vec::new();
    let mut buffer: Vec<T> = Vec::new();
    let mut start = 0;
    while start < items.len() {
        let rest = &mut items[start..];
        let found = natural_run(rest, &is_less);
        let length = found.max(minimum.min(rest.len()));
        insert(&mut rest[..length], found, &is_less);
        runs.push(Run { start, length });
        start += length;
        while let Some(at) = unbalanced(&runs) {
            merge_at(&mut runs, at, items, &mut buffer, &is_less);
        }
    }
    while runs.len() > 1 {
        let mut at = runs.len() - 2;
        if at > 0 && runs[at - 1].length < runs[at + 1].length {
            at -= 1;
        }
        merge_at(&mut runs, at, items, &mut buffer, &is_less);
    }
}

fn shortest_run(mut length: usize) -> usize {
    let mut odd = 0;
    while length >= SHORT {
        odd |= length & 1;
        length >>= 1;
    }
    length + odd
}

/// How long the run at the start is; one that strictly descends is turned round.
fn natural_run<T: Copy>(items: &mut [T], is_less: impl Fn(&T, &T) -> bool) -> usize {
    if items.len() < 2 {
        return items.len();
    }
    let descends = is_less(&items[1], &items[0]);
    let pairs = items.windows(2).skip(1);
    let length = 2 + pairs.take_while(|pair| is_less(&pair[1], &pair[0]) == descends).count();
    if descends {
        items[..length].reverse();
    }
    length
}

/// Sorts by binary insertion what is beyond the first `sorted`.
fn insert<T: Copy>(items: &mut [T], sorted: usize, is_less: impl Fn(&T, &T) -> bool) {
    for position in sorted.max(1)..items.len() {
        let pivot = items[position];
        let (mut low, mut high) = (0, position);
        while low < high {
            let middle = low + (high - low) / 2;
            if is_less(&pivot, &items[middle]) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        items[low..=position].rotate_right(1);
    }
}

/// The run that must be merged with its neighbour, for the runs to stay balanced.
fn unbalanced(runs: &[Run]) -> Option<usize> {
    let length = |from_end: usize| runs.len().checked_sub(from_end).map(|at| runs[at].length);
    let (last, second, third, fourth) = (length(1)?, length(2)?, length(3), length(4));
    let is_crowded = third.is_some_and(|third| third <= second + last)
        || fourth
            .zip(third)
            .is_some_and(|(fourth, third)| fourth <= third + second);
    if is_crowded {
        let before = usize::from(third.is_some_and(|third| third < last));
        Some(runs.len() - 2 - before)
    } else {
        (second <= last).then(|| runs.len() - 2)
    }
}

fn merge_at<T: Copy>(
    runs: &mut Vec<Run>,
    at: usize,
    items: &mut [T],
    buffer: &mut Vec<T>,
    is_less: impl Fn(&T, &T) -> bool,
) {
    let right = runs.remove(at + 1);
    let left = &mut runs[at];
    let both = &mut items[left.start..left.start + left.length + right.length];
    merge(both, left.length, buffer, is_less);
    left.length += right.length;
}

/// Merges two runs; of equal elements those of the left come first.
fn merge<T: Copy>(items: &mut [T], middle: usize, buffer: &mut Vec<T>, is_less: impl Fn(&T, &T) -> bool) {
    buffer.clear();
    buffer.extend_from_slice(&items[..middle]);
    let (mut left, mut right, mut out) = (0, middle, 0);
    while left < buffer.len() && right < items.len() {
        if is_less(&items[right], &buffer[left]) {
            items[out] = items[right];
            right += 1;
        } else {
            items[out] = buffer[left];
            left += 1;
        }
        out += 1;
    }
    let rest = &buffer[left..];
    items[out..out + rest.len()].copy_from_slice(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sorts_and_keeps_equal_elements_in_their_order() {
        // A sequence without a pattern, from a multiplier that visits every residue.
        for length in [0usize, 1, 2, 3, 31, 63, 64, 65, 200, 1000, 5000] {
            let items: Vec<(usize, usize)> = (0..length).map(|at| ((at * 7919 + 13) % 97, at)).collect();
            let mut expected = items.clone();
            expected.sort_unstable();
            let mut sorted = items;
            sort_by(&mut sorted, |one, other| one.0 < other.0);
            assert_eq!(sorted, expected, "{length}");
        }
    }

    #[test]
    fn takes_runs_as_they_are() {
        let mut items: Vec<u32> = (0..300).rev().chain(100..400).chain([5, 5, 5]).collect();
        let mut expected = items.clone();
        expected.sort_unstable();
        sort_by(&mut items, |one, other| one < other);
        assert_eq!(items, expected);
    }

    /// Scissors, stone, paper: whatever comes out, it is the same elements, and it comes out.
    #[test]
    fn a_comparison_that_goes_in_a_circle_ends() {
        for length in [3usize, 64, 500, 3000] {
            let items: Vec<usize> = (0..length).map(|at| (at * 31 + at / 7) % 3).collect();
            let mut sorted = items.clone();
            sort_by(&mut sorted, |one, other| (one + 1) % 3 == *other);
            let count = |list: &[usize], what: usize| list.iter().filter(|item| **item == what).count();
            for what in 0..3 {
                assert_eq!(count(&sorted, what), count(&items, what), "{length}");
            }
        }
    }

    /// By hand, after Python's algorithm, in the circle 0 < 1 < 2 < 0.
    #[test]
    fn a_short_circle_comes_out_as_in_python() {
        let is_less = |one: &usize, other: &usize| (one + 1) % 3 == *other;
        let sorted = |mut items: Vec<usize>| {
            sort_by(&mut items, is_less);
            items
        };
        // 1 is not less than 0, 2 not less than 1: a run, though 2 is less than 0.
        assert_eq!(sorted(vec![0, 1, 2]), [0, 1, 2]);
        // 1 is less than 2, 0 less than 1: a run that descends, turned round.
        assert_eq!(sorted(vec![2, 1, 0]), [0, 1, 2]);
        // 1 is less than 2, which ends the run; it goes where halving the run leads it.
        assert_eq!(sorted(vec![0, 1, 2, 1]), [0, 1, 1, 2]);
    }
}
