//! How often the driver looks whether its run was stopped by another process.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Between two looks. Short for an operator who waits; a page of a small domain takes a few milliseconds, and a look before
/// each would cost as much as the page.
const EVERY: Duration = Duration::from_millis(200);

/// When the last look was.
#[derive(Debug, Default)]
pub(super) struct StopLooks(Mutex<Option<Instant>>);

impl StopLooks {
    /// Whether it is time for a look, which counts as taken then. The first is due at once.
    pub(super) fn is_due(&self) -> bool {
        self.is_due_at(Instant::now())
    }

    fn is_due_at(&self, now: Instant) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = last.is_none_or(|last| now.duration_since(last) >= EVERY);
        if is_due {
            *last = Some(now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_is_due_at_first_and_then_after_a_while() {
        let looks = StopLooks::default();
        let start = Instant::now();
        let due: Vec<bool> = [0, 199, 200, 399, 400, 5000, 5001]
            .map(|millis| looks.is_due_at(start + Duration::from_millis(millis)))
            .into();
        assert_eq!(due, [true, false, true, false, true, true, false]);
    }
}
