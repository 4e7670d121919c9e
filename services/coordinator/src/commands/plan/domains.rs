//! `domains`: the domains that are on Couch, by class, with their counts, their last submissions, and how long they will take.

use std::path::Path;

use chrono::{DateTime, Utc};
use couch::{Outcome, ViewPage};
use futures::{StreamExt, TryStreamExt};
use proto::doctype::DocType;
use proto::ids::Domain;
use serde_json::{Value, json};
use state::first_runs::FirstRun;

use super::classes::Class;
use super::estimate::{Estimate, estimate};
use super::{Shown, between};
use crate::context::Context;
use crate::driver::{DESIGN, VIEW, couch_count};
use crate::failure::{Exit, Failure, Result};

/// Domain documents of one page.
const PAGE: usize = 500;
/// Domains that are counted at a time.
const AT_ONCE: usize = 8;

/// A domain on Couch.
#[derive(Clone, Debug)]
struct Listed {
    domain: Domain,
    class: Class,
    forms: i64,
    /// When the last normal form was received, as Couch has it.
    last_form: Option<String>,
    estimate: Option<Estimate>,
}

/// Lists the domains.
///
/// # Errors
/// Couch's; `C2S-0131` when a file cannot be written.
pub async fn domains(context: &Context, shown: Shown, output_dir: Option<&Path>) -> Result<Exit> {
    let now = context.state.now().await?;
    let past = context.state.first_runs().await?;
    let names = on_couch(context).await?;
    let mut listed: Vec<Listed> = futures::stream::iter(names)
        .map(|domain| look(context, domain, now, &past))
        .buffered(AT_ONCE)
        .try_collect()
        .await?;
    listed.sort_by(|a, b| (a.class, &a.domain).cmp(&(b.class, &b.domain)));
    if let Some(folder) = output_dir {
        write_files(folder, &listed).map_err(|error| {
            Failure::new(
                "C2S-0131",
                format!("{} cannot be written: {error}", folder.display()),
                "check path, rights and room",
            )
        })?;
    }
    match shown {
        Shown::Json => println!("{}", as_json(&listed, past.len())),
        Shown::Table => print!("{}", as_table(&listed, past.len())),
    }
    Ok(Exit::Clean)
}

/// The names of domains whose document does not say SQL.
async fn on_couch(context: &Context) -> Result<Vec<Domain>> {
    let db = &context.domains_db;
    let mut names = Vec::new();
    let mut after = None;
    loop {
        let page = db
            .view_page(&ViewPage {
                design: "domain".to_owned(),
                view: "domains".to_owned(),
                start_key: None,
                end_key: None,
                after,
                limit: PAGE,
            })
            .await?;
        after = page.cursor();
        let ids: Vec<String> = page.rows.iter().map(|row| row.id.clone()).collect();
        for fetched in db.bulk_get(&ids).await? {
            let Outcome::Found(doc) = fetched.outcome else { continue };
            let is_on_sql = doc.get("use_sql_backend").and_then(Value::as_bool).unwrap_or(false);
            if let (Some(name), false) = (doc.get("name").and_then(Value::as_str), is_on_sql) {
                names.push(Domain::new(name));
            }
        }
        if page.end {
            return Ok(names);
        }
    }
}

async fn look(context: &Context, domain: Domain, now: DateTime<Utc>, past: &[FirstRun]) -> Result<Listed> {
    let forms = couch_count(context, &domain, DocType::XFormInstance).await?;
    let last_form = last_submission(context, &domain).await?;
    let date = last_form
        .as_deref()
        .and_then(|text| DateTime::parse_from_rfc3339(text).ok())
        .map(|date| date.with_timezone(&Utc));
    Ok(Listed {
        class: Class::of(forms, date, now),
        estimate: estimate(past, forms),
        domain,
        forms,
        last_form,
    })
}

/// When the last normal form of a domain was received, as the view has it.
pub(super) async fn last_submission(context: &Context, domain: &Domain) -> Result<Option<String>> {
    let start = json!([domain.as_str(), DocType::XFormInstance.as_str()]);
    let end = json!([domain.as_str(), DocType::XFormInstance.as_str(), {}]);
    let row = context.forms_db.view_last(DESIGN, VIEW, &start, &end).await?;
    Ok(row.and_then(|row| row.key.get(2)?.as_str().map(str::to_owned)))
}

/// (class, domains, forms, how long they take one after the other)
fn totals(listed: &[Listed]) -> Vec<(Class, usize, i64, Option<Estimate>)> {
    Class::ALL
        .into_iter()
        .filter_map(|class| {
            let members: Vec<&Listed> = listed.iter().filter(|listed| listed.class == class).collect();
            let forms = members.iter().map(|listed| listed.forms).sum();
            let time = members
                .iter()
                .filter_map(|listed| listed.estimate)
                .reduce(Estimate::and);
            (!members.is_empty()).then_some((class, members.len(), forms, time))
        })
        .collect()
}

fn as_table(listed: &[Listed], past: usize) -> String {
    let mut text = format!(
        "{:<12} {:<40} {:>12}  {:<20}  Migration time\n",
        "Class", "Domain", "Submissions", "Last submission"
    );
    for one in listed {
        let last = one.last_form.as_deref().unwrap_or("-");
        text.push_str(&format!(
            "{:<12} {:<40} {:>12}  {:<20}  {}\n",
            one.class.name(),
            one.domain.as_str(),
            one.forms,
            last.get(..19).unwrap_or(last),
            between(one.estimate)
        ));
    }
    text.push_str(&format!(
        "\n{:<12} {:>8} {:>12}  Migration time, one after the other\n",
        "Class", "Domains", "Submissions"
    ));
    for (class, count, forms, time) in totals(listed) {
        text.push_str(&format!(
            "{:<12} {count:>8} {forms:>12}  {}\n",
            class.name(),
            between(time)
        ));
    }
    text.push_str(&format!("{:<12} {:>8}\n", "total", listed.len()));
    text.push_str(&match past {
        0 => "No first run has ended here yet: there is nothing to learn times from.\n".to_owned(),
        runs => format!("Times are learnt from {runs} first runs; the waits for HQ's caches come on top.\n"),
    });
    text
}

fn as_json(listed: &[Listed], past: usize) -> Value {
    let seconds = |time: Option<Estimate>| {
        time.map_or(
            Value::Null,
            |time| json!({"low": time.low.round(), "likely": time.likely.round(), "high": time.high.round()}),
        )
    };
    let domains: Vec<Value> = listed
        .iter()
        .map(|one| {
            json!({
                "domain": one.domain.as_str(),
                "class": one.class.name(),
                "forms": one.forms,
                "last_submission": one.last_form,
                "seconds": seconds(one.estimate),
            })
        })
        .collect();
    let classes: Vec<Value> = totals(listed)
        .into_iter()
        .map(|(class, count, forms, time)| json!({"class": class.name(), "domains": count, "forms": forms, "seconds": seconds(time)}))
        .collect();
    json!({"domains": domains, "classes": classes, "learnt_from_runs": past})
}

/// A file of names for each class, ready to be given to `migrate_multiple_domains_from_couch_to_sql`, and `domains.csv`.
fn write_files(folder: &Path, listed: &[Listed]) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    for class in Class::ALL {
        let names: String = listed
            .iter()
            .filter(|one| one.class == class)
            .map(|one| format!("{}\n", one.domain))
            .collect();
        std::fs::write(folder.join(format!("{}.txt", class.name())), names)?;
    }
    let mut csv = csv::Writer::from_path(folder.join("domains.csv"))?;
    csv.write_record([
        "Category",
        "Domain",
        "# forms",
        "Last submission",
        "Forms migration time",
        "Seconds, low",
        "Seconds, likely",
        "Seconds, high",
    ])?;
    for one in listed {
        let seconds = |part: fn(Estimate) -> f64| {
            one.estimate
                .map(|time| format!("{:.0}", part(time)))
                .unwrap_or_default()
        };
        csv.write_record([
            one.class.name().to_owned(),
            one.domain.as_str().to_owned(),
            one.forms.to_string(),
            one.last_form.clone().unwrap_or_default(),
            one.estimate.map(|_| between(one.estimate)).unwrap_or_default(),
            seconds(|time| time.low),
            seconds(|time| time.likely),
            seconds(|time| time.high),
        ])?;
    }
    csv.flush()
}
