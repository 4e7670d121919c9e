//! The Domain document in Couch: whether a domain exists, and which backend it is on.
//!
//! `use_sql_backend` is the switch; nothing in PostgreSQL decides it. The document is always read from Couch itself, so
//! that no command can act on a cached answer.

use couch::{Database, ViewPage};
use proto::ids::Domain;
use serde_json::{Value, json};

use crate::failure::{Failure, Result};

/// HQ's view of domains by name.
const DESIGN: &str = "domain";
const VIEW: &str = "domains";

/// The Domain document of a domain.
#[derive(Clone, Debug)]
pub struct DomainDoc {
    id: String,
    doc: Value,
}

impl DomainDoc {
    /// Reads the document.
    ///
    /// # Errors
    /// `C2S-4010` when there is no such domain; Couch's errors.
    pub async fn read(domains_db: &Database, domain: &Domain) -> Result<Self> {
        let page = ViewPage {
            design: DESIGN.to_owned(),
            view: VIEW.to_owned(),
            start_key: Some(json!(domain.as_str())),
            end_key: Some(json!(domain.as_str())),
            after: None,
            limit: 2,
        };
        let rows = domains_db.view_page(&page).await?.rows;
        let unknown = || {
            Failure::new(
                "C2S-4010",
                format!(
                    "there is no domain {domain} in the Couch database {}",
                    domains_db.name()
                ),
                "check the name",
            )
        };
        if rows.len() > 1 {
            return Err(Failure::new(
                "C2S-4011",
                format!("more than one Domain document is called {domain}"),
                "mend that in HQ first",
            ));
        }
        let id = rows.into_iter().next().map(|row| row.id).ok_or_else(unknown)?;
        let doc = domains_db.get(&id).await?.ok_or_else(unknown)?;
        Ok(Self { id, doc })
    }

    /// Whether the domain is on SQL.
    pub fn is_on_sql(&self) -> bool {
        self.doc
            .get("use_sql_backend")
            .and_then(Value::as_bool)
            .unwrap_or(false)
    }

    /// The document's revision.
    pub fn rev(&self) -> &str {
        self.doc.get("_rev").and_then(Value::as_str).unwrap_or_default()
    }

    /// Writes the switch, against the revision that was read.
    ///
    /// # Errors
    /// A conflict when the document was changed meanwhile; Couch's errors.
    pub async fn switch(&self, domains_db: &Database, to_sql: bool) -> Result<(), couch::Error> {
        let mut doc = self.doc.clone();
        if let Some(map) = doc.as_object_mut() {
            map.insert("use_sql_backend".to_owned(), Value::Bool(to_sql));
        }
        domains_db.put(&self.id, &doc).await.map(|_| ())
    }
}
