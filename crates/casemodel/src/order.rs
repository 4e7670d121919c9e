//! Which form comes when.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Duration, Utc};
use proto::effects::FormEffects;
use proto::ids::FormId;
use proto::rows::TransactionRow;

/// Forms in replay order: by `received_on`, then by form id, byte by byte. Of several with one id the first stays.
pub(crate) fn sorted(mut forms: Vec<FormEffects>) -> Vec<FormEffects> {
    forms.sort_by(|a, b| {
        (a.form.received_on, a.form.form_id.as_str()).cmp(&(b.form.received_on, b.form.form_id.as_str()))
    });
    // One transaction per (case, form) is the table's own rule; callers give each form once.
    let mut seen = HashSet::with_capacity(forms.len());
    forms.retain(|effects| seen.insert(effects.form.form_id.clone()));
    forms
}

/// Forms in a wanted order; those that it does not name come last and keep their order.
pub(crate) fn as_wanted<'a>(forms: &[&'a FormEffects], wanted: &[FormId]) -> Vec<&'a FormEffects> {
    let mut place: HashMap<&str, usize> = HashMap::with_capacity(wanted.len());
    for (position, form_id) in wanted.iter().enumerate() {
        place.entry(form_id.as_str()).or_insert(position);
    }
    let mut forms = forms.to_vec();
    forms.sort_by_key(|effects| place.get(effects.form.form_id.as_str()).copied().unwrap_or(usize::MAX));
    forms
}

/// Gives the transactions of a case with a corrected order dates that ascend strictly, and changes as few as it can. HQ
/// reads transactions by date: with the old ones, its next rebuild would fall back into the old order.
pub(crate) fn make_dates_ascend(transactions: &mut [TransactionRow]) {
    let dates: Vec<DateTime<Utc>> = transactions.iter().map(|transaction| transaction.server_date).collect();
    for (transaction, date) in transactions.iter_mut().zip(ascending(&dates)) {
        transaction.server_date = date;
    }
}

/// The dates with the fewest of them changed so that they ascend strictly. A longest ascending subsequence stays; others
/// are spread evenly between their neighbours, or stand a minute apart where one side is open.
fn ascending(dates: &[DateTime<Utc>]) -> Vec<DateTime<Utc>> {
    let kept = longest_ascending(dates);
    let mut kept = kept.iter().copied().peekable();
    let mut out: Vec<DateTime<Utc>> = Vec::with_capacity(dates.len());
    for (position, date) in dates.iter().enumerate() {
        let next = match kept.peek() {
            Some(&next) if next == position => {
                kept.next();
                out.push(*date);
                continue;
            }
            next => next.copied(),
        };
        let steps = |next: usize| i64::try_from(next - position).unwrap_or(i64::MAX);
        out.push(match (out.last(), next) {
            (Some(previous), None) => *previous + Duration::minutes(1),
            (Some(previous), Some(next)) => *previous + divided(dates[next] - *previous, steps(next).saturating_add(1)),
            (None, Some(next)) => dates[next] - Duration::minutes(steps(next)),
            // Nothing before and nothing kept after: a sequence that is not empty keeps at least one date.
            (None, None) => *date,
        });
    }
    out
}

/// A part of a time span, to the microsecond, halves to the even one, as Python divides it.
fn divided(span: Duration, parts: i64) -> Duration {
    let micros = span.num_microseconds().unwrap_or(i64::MAX);
    let (whole, rest) = (micros.div_euclid(parts), micros.rem_euclid(parts));
    let up = match (rest * 2).cmp(&parts) {
        Ordering::Less => false,
        Ordering::Equal => whole % 2 != 0,
        Ordering::Greater => true,
    };
    Duration::microseconds(whole + i64::from(up))
}

/// Positions of a longest strictly ascending subsequence, by smallest tails; of equal values the later position counts.
fn longest_ascending<T: Ord>(values: &[T]) -> Vec<usize> {
    let mut tails: Vec<usize> = Vec::new();
    let mut before: Vec<Option<usize>> = Vec::with_capacity(values.len());
    for (position, value) in values.iter().enumerate() {
        let length = tails.partition_point(|&tail| values[tail] < *value);
        before.push(length.checked_sub(1).map(|shorter| tails[shorter]));
        if length == tails.len() {
            tails.push(position);
        } else {
            tails[length] = position;
        }
    }
    let mut chain: Vec<usize> = std::iter::successors(tails.last().copied(), |&position| before[position]).collect();
    chain.reverse();
    chain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longest_ascending_keeps_later_positions_of_ties() {
        let table: [(&[i32], &[usize]); 10] = [
            (&[], &[]),
            (&[2], &[0]),
            (&[7, 2], &[1]),
            (&[3, 7], &[0, 1]),
            (&[3, 6, 9], &[0, 1, 2]),
            (&[3, 9, 6], &[0, 2]),
            (&[3, 6, 6], &[0, 2]),
            (&[3, 6, 6, 6, 6, 9], &[0, 4, 5]),
            (&[7, 2, 6, 4, 5, 1], &[1, 3, 4]),
            (&[18, 12, 17, 16, 14, 15, 16, 11], &[1, 4, 5, 6]),
        ];
        for (values, expected) in table {
            assert_eq!(longest_ascending(values), expected, "{values:?}");
        }
    }

    /// Tenths of a minute, so that the interpolated dates are whole numbers.
    #[test]
    fn dates_ascend_with_few_changes() {
        let table: [(&[i64], &[i64]); 9] = [
            (&[0, 10], &[0, 10]),
            (&[0, 100, 200], &[0, 100, 200]),
            (&[300, 100, 200], &[90, 100, 200]),
            (&[300, 300, 300, 100, 200], &[70, 80, 90, 100, 200]),
            (&[10, 30, 30, 30, 30, 20], &[10, 12, 14, 16, 18, 20]),
            (&[0, 200, 100], &[0, 50, 100]),
            (&[0, 100, 200, 100], &[0, 100, 200, 210]),
            (
                &[400, 500, 600, 700, 100, 200, 300],
                &[400, 500, 600, 700, 710, 720, 730],
            ),
            (&[], &[]),
        ];
        let dates = |tenths: &[i64]| -> Vec<DateTime<Utc>> {
            tenths
                .iter()
                .map(|tenth| DateTime::UNIX_EPOCH + Duration::seconds(tenth * 6))
                .collect()
        };
        for (given, expected) in table {
            assert_eq!(ascending(&dates(given)), dates(expected), "{given:?}");
        }
    }
}
