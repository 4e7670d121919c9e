//! `support-request`: the notice by which whoever looks after a customer is asked to agree on a time for a live migration.

use proto::ids::Domain;

use super::estimate::{Estimate, estimate};
use super::{between, total_forms};
use crate::context::Context;
use crate::domain_doc::DomainDoc;
use crate::driver::couch_counts;
use crate::failure::{Exit, Failure, Result};

/// Prints the notice.
///
/// # Errors
/// Unknown domain, or one that is on SQL already.
pub async fn support_request(context: &Context, domain: &Domain) -> Result<Exit> {
    if DomainDoc::read(&context.domains_db, domain).await?.is_on_sql() {
        return Err(Failure::new(
            "C2S-4002",
            "the domain is on SQL already",
            "there is nothing to announce",
        ));
    }
    let forms = total_forms(&couch_counts(context, domain).await?);
    let time = estimate(&context.state.first_runs().await?, forms);
    print!("{}", notice(domain, forms, time));
    Ok(Exit::Clean)
}

/// What whoever sends the notice has to replace.
const FILL_IN: &str = "[fill in: no migration has ended here yet, so that there is no estimate]";

/// The text. Without past runs to learn from, whoever sends it has to fill in the time.
fn notice(domain: &Domain, forms: i64, time: Option<Estimate>) -> String {
    let time = match time {
        Some(_) => format!("about {}", between(time)),
        None => FILL_IN.to_owned(),
    };
    let forms = grouped(forms);
    format!(
        "We would like to move the forms and cases of the project space {domain} from Couch to SQL. Customers need not hear\n\
         of Couch or SQL: for them it is maintenance that keeps the system fast.\n\
         \n\
         {domain} has about {forms} forms at present. We expect the migration to take {time}.\n\
         While it is on, these operations are switched off:\n\
         \n\
         - editing forms\n\
         - deleting forms, archiving them, and taking them out of the archive\n\
         - deleting users, archiving them, and taking them out of the archive\n\
         \n\
         At its end, form submissions are switched off too, for a short while: the last forms are migrated, and everything\n\
         is checked. We tell the expected length before that step begins. All else works as usual throughout.\n\
         \n\
         Please agree on a time with the customer, and confirm that they can work with these limits. Thank you!\n"
    )
}

/// A number with commas between groups of three digits.
fn grouped(number: i64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_notice_names_what_is_switched_off_and_is_filled_in() {
        let time = Estimate {
            low: 3600.0,
            likely: 5400.0,
            high: 7200.0,
        };
        let text = notice(&Domain::new("mwanza"), 1_234_567, Some(time));
        for part in [
            "mwanza",
            "1,234,567 forms",
            "1 h 0 min",
            "2 h 0 min",
            "editing forms",
            "deleting users",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(!text.contains("fill in"), "{text}");
        assert!(notice(&Domain::new("mwanza"), 5, None).contains("to take [fill in: no migration"));
    }

    #[test]
    fn digits_in_groups() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (12_345_678, "12,345,678")] {
            assert_eq!(grouped(number), text);
        }
    }
}
