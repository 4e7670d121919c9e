//! `rules`: the differences that are not reported, and those that an operator has decided not to report for one domain.

use std::path::Path;

use docdiff::OperatorRules;
use docdiff::rules::Described;
use figment::Figment;
use figment::providers::{Format as _, Toml};
use proto::ids::Domain;
use proto::topology::Stage;
use serde_json::{Value, json};
use state::migration::Migration;

use super::{HeldDomain, migration_of};
use crate::context::Context;
use crate::domain_doc::DomainDoc;
use crate::failure::{Exit, Failure, Result};
use crate::rules::{Command, Situation, allow};

/// Prints every rule of the table.
pub fn print_table(as_json: bool) -> Exit {
    let rules: Vec<Described> = docdiff::rules::all()
        .iter()
        .map(docdiff::rules::Rule::described)
        .collect();
    if as_json {
        println!("{}", rules.iter().map(to_json).collect::<Value>());
        return Exit::Clean;
    }
    for rule in &rules {
        println!("{}", to_text(rule));
    }
    Exit::Clean
}

fn to_json(rule: &Described) -> Value {
    json!({
        "id": rule.id, "documents": rule.documents, "diff_type": rule.diff_type, "path": rule.path, "couch": rule.couch,
        "sql": rule.sql, "when": rule.when, "reason": rule.reason,
    })
}

fn to_text(rule: &Described) -> String {
    let when = if rule.when.is_empty() {
        String::new()
    } else {
        format!("\n    when {}", rule.when)
    };
    format!(
        "{}\n    {}: {} [{}] {} -> {}{when}\n    {}",
        rule.id, rule.documents, rule.diff_type, rule.path, rule.couch, rule.sql, rule.reason
    )
}

/// Adds the rules of a file to a domain.
///
/// # Errors
/// A file that holds no rules, a name that is taken, or the refusal.
pub async fn add(context: &Context, domain: &Domain, file: &Path) -> Result<Exit> {
    let rules = read(file)?;
    may_change_rules(context, domain).await?;
    let migration = context.state.ensure_migration(domain).await?;
    let records: Vec<(String, String)> = rules
        .rules()
        .iter()
        .map(|rule| (rule.name().to_owned(), rule.to_json().to_string()))
        .collect();
    let held = quiet(context, &migration).await?;
    let added = context.state.add_rules(&held.lease, &records, &context.operator).await;
    held.give_back(context).await?;
    let taken = added?;
    if !taken.is_empty() {
        return Err(Failure::new(
            "C2S-4071",
            format!("{domain} has rules of these names already: {}", taken.join(", ")),
            "give the new rules other names, or remove the old ones first",
        ));
    }
    println!(
        "{} rules added; they count for what is compared from now on. `couch_sql_diff {domain} filter` applies them to what is \
         on record, also with --changes.",
        records.len()
    );
    Ok(Exit::Clean)
}

/// Removes rules of a domain, all when `names` is empty, and puts back what they had set aside.
///
/// # Errors
/// A name that no rule has, or the refusal.
pub async fn remove(context: &Context, domain: &Domain, names: &[String]) -> Result<Exit> {
    may_change_rules(context, domain).await?;
    let migration = migration_of(context, domain).await?;
    let known = context.state.operator_rules(migration.id).await?;
    // Names that only stand with what was set aside are left of a removal that was interrupted.
    let mut present: Vec<String> = known.into_iter().map(|rule| rule.name).collect();
    for count in context.state.ignored_counts(migration.id).await? {
        if !present.contains(&count.rule) {
            present.push(count.rule);
        }
    }
    if let Some(unknown) = names.iter().find(|name| !present.contains(name)) {
        return Err(Failure::new(
            "C2S-4072",
            format!("{domain} has no rule named {unknown}"),
            "`coordinator rules show` lists its rules",
        ));
    }
    let names = if names.is_empty() { &present } else { names };
    let held = quiet(context, &migration).await?;
    let removed = context.state.remove_rules(&held.lease, names, &context.operator).await;
    held.give_back(context).await?;
    let back = removed?;
    println!("{} rules removed; {back} records were put back", names.len());
    Ok(Exit::Clean)
}

/// Prints the rules of a domain, and what each has set aside.
///
/// # Errors
/// The domain is not known; the state schema's.
pub async fn show(context: &Context, domain: &Domain, as_json: bool) -> Result<Exit> {
    let migration = migration_of(context, domain).await?;
    let rules = of_domain(context, &migration).await?;
    if as_json {
        println!("{}", Value::Array(rules));
        return Ok(Exit::Clean);
    }
    if rules.is_empty() {
        println!("{domain} has no rules of its own");
    }
    for rule in &rules {
        println!("{}\n    {}", rule["rule"], counted(rule));
    }
    Ok(Exit::Clean)
}

fn counted(rule: &Value) -> String {
    let text = |key: &str| rule[key].as_str().unwrap_or_default().to_owned();
    let sets: Vec<String> = rule["ignored"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|count| {
            format!(
                "{} differences of {} {}",
                count["diffs"],
                count["documents"],
                count["doc_type"].as_str().unwrap_or_default()
            )
        })
        .collect();
    let sets = if sets.is_empty() {
        "nothing set aside".to_owned()
    } else {
        format!("set aside: {}", sets.join(", "))
    };
    format!("added by {} at {}; {sets}", text("added_by"), text("added_at"))
}

/// The rules of a domain as JSON, each with what it has set aside.
///
/// # Errors
/// The state schema's.
pub(crate) async fn of_domain(context: &Context, migration: &Migration) -> Result<Vec<Value>> {
    let counts = context.state.ignored_counts(migration.id).await?;
    let rules = context.state.operator_rules(migration.id).await?;
    Ok(rules
        .into_iter()
        .map(|rule| {
            let ignored: Vec<Value> = counts
                .iter()
                .filter(|count| count.rule == rule.name)
                .map(|count| json!({"doc_type": count.kind, "documents": count.documents, "diffs": count.diffs}))
                .collect();
            json!({
                "rule": serde_json::from_str(&rule.rule).unwrap_or(Value::Null),
                "added_by": rule.added_by, "added_at": rule.added_at.to_rfc3339(), "ignored": ignored,
            })
        })
        .collect())
}

/// Refuses unless the ignore rules of the domain may be changed: before its migration begins, and while it is on.
async fn may_change_rules(context: &Context, domain: &Domain) -> Result<()> {
    let doc = DomainDoc::read(&context.domains_db, domain).await?;
    let found = context.state.migration(domain).await?;
    allow(
        Command::ChangeRules,
        Situation {
            migration: found.as_ref(),
            on_sql: doc.is_on_sql(),
        },
    )
}

/// The domain, while nobody compares anything: a worker that had read the rules before would not know of the change. One that
/// claims a batch just now may have read them too: what it sets aside by a rule that is gone by then is not recorded, and the
/// batch is tried again.
async fn quiet(context: &Context, migration: &Migration) -> Result<HeldDomain> {
    let held = HeldDomain::take(context, migration).await?;
    let mut claimed = 0;
    for stage in Stage::ALL {
        claimed += context.state.open_batches(migration.id, stage).await?.claimed;
    }
    if claimed == 0 {
        return Ok(held);
    }
    held.give_back(context).await?;
    Err(Failure::new(
        "C2S-4070",
        format!("workers have {claimed} batches of {} in hand", migration.domain),
        "wait until they are done, and run the command again",
    ))
}

fn read(file: &Path) -> Result<OperatorRules> {
    let path = file.display();
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failure::new("C2S-0107", format!("{path} cannot be read: {error}"), "check the path"))?;
    parse(&text).map_err(|why| {
        Failure::new(
            "C2S-0124",
            format!("{path}: {why}"),
            "the guide shows what a file of rules looks like",
        )
    })
}

fn parse(text: &str) -> std::result::Result<OperatorRules, String> {
    let content: Value = Figment::from(Toml::string(text))
        .extract()
        .map_err(|error| error.to_string())?;
    let content = content.as_object().ok_or("this is no TOML table")?;
    if let Some(key) = content.keys().find(|key| *key != "rule") {
        return Err(format!("unknown key {key}: rules are given as [[rule]]"));
    }
    let rules = content.get("rule").and_then(Value::as_array);
    let rules = rules.filter(|rules| !rules.is_empty()).ok_or("there is no [[rule]]")?;
    OperatorRules::from_json(rules).map_err(|fault| fault.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use docdiff::RecordedDiff;

    use super::*;

    #[test]
    fn a_file_of_rules() {
        let rules = parse(
            r#"
            [[rule]]
            name = "clinic-code"
            documents = "CommCareCase"
            path = ["clinic_code"]
            diff_type = "diff"
            old = { value = "7" }
            reason = "the import of 2018 wrote old codes"

            [[rule]]
            name = "no-answers"
            documents = "forms"
            path = ["form", "old"]
            below = true
            new = { missing = true }
            reason = "nobody reads them"
            "#,
        )
        .unwrap();
        let names: Vec<&str> = rules.rules().iter().map(docdiff::OperatorRule::name).collect();
        assert_eq!(names, ["clinic-code", "no-answers"]);
        let found = json!({"type": "diff", "path": ["clinic_code"], "old_value": "7", "new_value": "8"});
        let found = vec![RecordedDiff::from_json(&found).unwrap()];
        assert!(rules.sort_out("CommCareCase", found).kept.is_empty());
    }

    #[test]
    fn what_is_no_file_of_rules() {
        for (text, why) in [
            ("", "there is no [[rule]]"),
            ("x = 1", "unknown key x"),
            ("[[rule]]\nname = \"a\"", "does not say which documents"),
            ("[[rule", "TOML parse error"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn every_rule_of_the_table_is_printed() {
        for rule in docdiff::rules::all() {
            let described = rule.described();
            let text = to_text(&described);
            assert!(text.starts_with(rule.id) && text.ends_with(rule.reason), "{text}");
            assert_eq!(to_json(&described)["reason"], rule.reason);
        }
    }
}
