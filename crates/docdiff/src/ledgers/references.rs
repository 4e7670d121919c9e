//! Whether HQ has applied a form to a ledger more often than the form says.

use std::collections::HashMap;

use proto::effects::{LedgerKind, LedgerUpdate};
use proto::stock::{LedgerRef, RepeatedReport};

/// How often a form names each ledger, by type of report. Counted from the ledger blocks of the form's XML.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LedgerReferences {
    counts: HashMap<(&'static str, LedgerRef), u64>,
}

impl LedgerReferences {
    /// Counts the instructions of a form, each with its case. A balance above zero counts twice: HQ may have written a
    /// second, inferred transaction beside it.
    pub fn of<'a>(updates: impl IntoIterator<Item = (&'a str, &'a LedgerUpdate)>) -> Self {
        let mut counts = HashMap::new();
        for (case_id, update) in updates {
            let (report_type, transactions) = match update.kind {
                LedgerKind::Balance if is_positive(&update.quantity) => ("balance", 2),
                LedgerKind::Balance => ("balance", 1),
                LedgerKind::TransferOut | LedgerKind::TransferIn => ("transfer", 1),
            };
            let ledger = LedgerRef {
                case_id: case_id.to_owned(),
                section_id: update.section_id.clone(),
                entry_id: update.entry_id.clone(),
            };
            *counts.entry((report_type, ledger)).or_insert(0) += transactions;
        }
        Self { counts }
    }

    fn count(&self, report_type: &str, ledger: &LedgerRef) -> u64 {
        let mut counts = self.counts.iter();
        let found = counts.find(|((counted, of), _)| *counted == report_type && of == ledger);
        found.map_or(0, |(_, count)| *count)
    }
}

fn is_positive(quantity: &str) -> bool {
    quantity.trim().parse::<f64>().is_ok_and(|quantity| quantity > 0.0)
}

/// Whether a ledger has transactions that its forms do not account for: of one form and type of report, more than the
/// form's own references. A form that is not there, or does not name the ledger at all, proves nothing.
pub fn has_duplicates(
    ledger: &LedgerRef,
    repeated: &[RepeatedReport],
    forms: &HashMap<String, LedgerReferences>,
) -> bool {
    repeated.iter().filter(|report| report.ledger == *ledger).any(|report| {
        let named = forms
            .get(&report.form_id)
            .map_or(0, |form| form.count(&report.report_type, ledger));
        named > 0 && named < report.transactions
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use chrono::DateTime;

    use super::*;

    fn update(section_id: &str, kind: LedgerKind, quantity: &str) -> LedgerUpdate {
        LedgerUpdate {
            section_id: section_id.to_owned(),
            entry_id: "p".to_owned(),
            kind,
            quantity: quantity.to_owned(),
            report_date: DateTime::UNIX_EPOCH,
            user_defined_type: None,
        }
    }

    fn ledger(case_id: &str) -> LedgerRef {
        LedgerRef {
            case_id: case_id.to_owned(),
            section_id: "stock".to_owned(),
            entry_id: "p".to_owned(),
        }
    }

    #[test]
    fn more_transactions_than_the_form_accounts_for() {
        use LedgerKind::{Balance, TransferIn, TransferOut};
        let balance = |quantity| vec![("c", update("stock", Balance, quantity))];
        for (updates, report_type, transactions, expected) in [
            // Stock on hand may have an inferred transaction beside it.
            (balance("5"), "balance", 2, false),
            (balance("5"), "balance", 3, true),
            (balance("0.5"), "balance", 2, false),
            // A stock-out never has.
            (balance("0"), "balance", 2, true),
            (balance("-1"), "balance", 2, true),
            // Another type of report, another case, another section: no reference at all.
            (balance("5"), "transfer", 3, false),
            (vec![("d", update("stock", Balance, "5"))], "balance", 3, false),
            (vec![("c", update("other", Balance, "5"))], "balance", 3, false),
            // Transfers count once each.
            (vec![("c", update("stock", TransferIn, "5"))], "transfer", 2, true),
            (
                vec![
                    ("c", update("stock", TransferIn, "5")),
                    ("c", update("stock", TransferOut, "2")),
                ],
                "transfer",
                2,
                false,
            ),
        ] {
            let references = LedgerReferences::of(updates.iter().map(|(case_id, update)| (*case_id, update)));
            let forms = HashMap::from([("f".to_owned(), references)]);
            let repeated = [RepeatedReport {
                ledger: ledger("c"),
                form_id: "f".to_owned(),
                report_type: report_type.to_owned(),
                transactions,
            }];
            assert_eq!(
                has_duplicates(&ledger("c"), &repeated, &forms),
                expected,
                "{updates:?} {report_type} {transactions}"
            );
            assert!(
                !has_duplicates(&ledger("c"), &repeated, &HashMap::new()),
                "the form is gone"
            );
            assert!(!has_duplicates(&ledger("d"), &repeated, &forms), "another ledger");
        }
    }
}
