//! Which domain of a list is next.
//!
//! Domains are begun in the order of the list, but large ones never fill all places while small ones wait: otherwise a
//! handful of them at the top of a list would hold up hundreds of domains of a minute each.

use std::collections::VecDeque;

use proto::ids::Domain;

/// Forms from which on a domain is large: above it, a migration takes minutes at least.
const LARGE: u64 = 60_000;

/// Whether a domain takes long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    Small,
    Large,
}

impl Size {
    /// By the number of forms.
    pub(super) const fn of(forms: u64) -> Self {
        if forms > LARGE { Self::Large } else { Self::Small }
    }
}

/// The domains of a list that wait, and how many are in hand.
#[derive(Debug)]
pub(super) struct Queue {
    waiting: VecDeque<(Domain, Size)>,
    /// Those that another list has in hand, with its name.
    aside: VecDeque<(Domain, Size, String)>,
    places: usize,
    in_hand: usize,
    large_in_hand: usize,
}

impl Queue {
    pub(super) fn new(domains: Vec<(Domain, Size)>, places: usize) -> Self {
        Self {
            waiting: domains.into(),
            aside: VecDeque::new(),
            places: places.max(1),
            in_hand: 0,
            large_in_hand: 0,
        }
    }

    /// The next domain, which is in hand from now on. `None`: all places are taken, or nothing waits.
    pub(super) fn next(&mut self) -> Option<(Domain, Size)> {
        if self.in_hand >= self.places {
            return None;
        }
        let large_may_begin = self.large_in_hand < (self.places / 2).max(1);
        let at = if large_may_begin {
            0
        } else {
            // Without a small one, a large one may as well begin.
            self.waiting
                .iter()
                .position(|(_, size)| *size == Size::Small)
                .unwrap_or(0)
        };
        let (domain, size) = self.waiting.remove(at)?;
        self.in_hand += 1;
        if size == Size::Large {
            self.large_in_hand += 1;
        }
        Some((domain, size))
    }

    /// A domain is no longer in hand.
    pub(super) fn ended(&mut self, size: Size) {
        self.in_hand -= 1;
        if size == Size::Large {
            self.large_in_hand -= 1;
        }
    }

    /// A domain is in the hands of another list: it is looked at again when nothing else is left.
    pub(super) fn set_aside(&mut self, domain: Domain, size: Size, by: String) {
        self.ended(size);
        self.aside.push_back((domain, size, by));
    }

    /// Has the domains that were set aside wait again. Gives the first of them with the list that had it; `None` when there
    /// are none.
    pub(super) fn take_up_aside(&mut self) -> Option<(Domain, String)> {
        let first = self.aside.front().map(|(domain, _, by)| (domain.clone(), by.clone()));
        self.waiting
            .extend(self.aside.drain(..).map(|(domain, size, _)| (domain, size)));
        first
    }

    /// All that was not begun.
    pub(super) fn rest(self) -> impl Iterator<Item = Domain> {
        let aside = self.aside.into_iter().map(|(domain, ..)| domain);
        self.waiting.into_iter().map(|(domain, _)| domain).chain(aside)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn queue(list: &str, places: usize) -> Queue {
        let domains = list.split(' ').map(|name| {
            let size = if name.starts_with('L') {
                Size::Large
            } else {
                Size::Small
            };
            (Domain::new(name), size)
        });
        Queue::new(domains.collect(), places)
    }

    fn names(queue: &mut Queue) -> Vec<String> {
        std::iter::from_fn(|| queue.next())
            .map(|(domain, _)| domain.as_str().to_owned())
            .collect()
    }

    #[test]
    fn large_domains_take_half_of_the_places_while_small_ones_wait() {
        let mut queue = queue("L1 L2 L3 L4 s1 s2 s3 L5", 4);
        assert_eq!(names(&mut queue), ["L1", "L2", "s1", "s2"]);
        queue.ended(Size::Small);
        assert_eq!(names(&mut queue), ["s3"]);
        queue.ended(Size::Large);
        assert_eq!(names(&mut queue), ["L3"]);
        queue.ended(Size::Small);
        assert_eq!(names(&mut queue), ["L4"], "no small one waits any more");
    }

    #[test]
    fn one_at_a_time_goes_by_the_order_of_the_list() {
        let mut queue = queue("s1 L1 s2", 1);
        for expected in ["s1", "L1", "s2"] {
            let (domain, size) = queue.next().unwrap();
            assert_eq!(domain.as_str(), expected);
            assert!(queue.next().is_none(), "the place is taken");
            queue.ended(size);
        }
        assert!(queue.next().is_none());
    }

    #[test]
    fn what_another_list_has_waits_until_the_rest_is_done() {
        let mut queue = queue("a b c", 2);
        let (a, size) = queue.next().unwrap();
        queue.set_aside(a, size, "them".to_owned());
        assert_eq!(names(&mut queue), ["b", "c"]);
        queue.ended(Size::Small);
        assert!(queue.next().is_none(), "set aside is not waiting");
        assert_eq!(queue.take_up_aside().unwrap().0.as_str(), "a");
        assert_eq!(names(&mut queue), ["a"]);
        assert!(queue.take_up_aside().is_none());
    }
}
