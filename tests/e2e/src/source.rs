//! Where the documents are: the stand-in in this process, or databases of a real server.

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};
use couch::{Couch, CouchConfig, Database};
use couch_standin::{Running, StandIn};
use serde_json::{Value, json};
use url::Url;

use crate::load;

/// Which server holds the documents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceKind {
    /// The stand-in, in this process.
    StandIn,
    /// A server with its administrator's name and password.
    Server(Url),
}

/// The databases of a world.
#[derive(Debug)]
pub struct Source {
    url: Url,
    forms: Database,
    domains: Database,
    stand_in: Option<Running>,
}

impl Source {
    /// Makes both databases, with their views, under names with this prefix.
    ///
    /// # Errors
    /// Couch's.
    pub async fn create(kind: &SourceKind, prefix: &str) -> Result<Self> {
        let (url, stand_in) = match kind {
            SourceKind::StandIn => {
                let running = StandIn::start(couch_standin::Options::default())
                    .await
                    .context("start the stand-in")?;
                (running.url().parse()?, Some(running))
            }
            SourceKind::Server(url) => (url.clone(), None),
        };
        let couch = Couch::new(client_config(&url))?;
        let source = Self {
            forms: couch.database(&format!("{prefix}_forms")),
            domains: couch.database(&format!("{prefix}_domains")),
            url,
            stand_in,
        };
        let (forms_design, domains_design) = load::design_documents();
        load::ensure_database(&source.forms, &forms_design).await?;
        load::ensure_database(&source.domains, &domains_design).await?;
        Ok(source)
    }

    /// Address, with credentials.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Forms and cases.
    pub fn forms(&self) -> &Database {
        &self.forms
    }

    /// Domain documents.
    pub fn domains(&self) -> &Database {
        &self.domains
    }

    /// The stand-in.
    ///
    /// # Panics
    /// The source is a server.
    pub fn stand_in(&self) -> &Running {
        self.stand_in
            .as_ref()
            .expect("this world's source is a server, which takes no faults")
    }

    /// Writes forms and cases, in place of those that are there.
    ///
    /// # Errors
    /// Couch's.
    pub async fn load(&self, mut documents: Vec<Value>) -> Result<()> {
        match &self.stand_in {
            Some(running) => {
                running.load(self.forms.name(), documents)?;
                Ok(())
            }
            None => {
                // A server takes a document only with the revision that it replaces.
                let ids: Vec<&str> = documents.iter().filter_map(|doc| doc["_id"].as_str()).collect();
                let revisions = self.revisions(&ids).await?;
                for doc in &mut documents {
                    if let Some(rev) = doc["_id"].as_str().and_then(|id| revisions.get(id)) {
                        doc["_rev"] = json!(rev);
                    }
                }
                load::write_documents(&self.forms, &documents).await
            }
        }
    }

    /// Deletes a form or a case.
    ///
    /// # Errors
    /// Couch's; it is not there.
    pub async fn delete(&self, id: &str) -> Result<()> {
        if let Some(running) = &self.stand_in {
            ensure!(running.delete(self.forms.name(), id), "document {id} is not there");
            return Ok(());
        }
        let revisions = self.revisions(&[id]).await?;
        let rev = revisions
            .get(id)
            .with_context(|| format!("document {id} is not there"))?;
        load::write_documents(&self.forms, &[json!({ "_id": id, "_rev": rev, "_deleted": true })]).await
    }

    /// Revisions of those of these documents that are there.
    async fn revisions(&self, ids: &[&str]) -> Result<HashMap<String, String>> {
        let present = self.forms.all_docs_exist(ids).await?;
        Ok(present.into_iter().filter_map(|(id, rev)| Some((id, rev?))).collect())
    }

    /// The Domain document of a domain.
    ///
    /// # Errors
    /// Couch's; there is none.
    pub async fn domain_doc(&self, domain: &str) -> Result<Value> {
        let page = couch::ViewPage {
            design: "domain".to_owned(),
            view: "domains".to_owned(),
            start_key: Some(json!(domain)),
            end_key: Some(json!(domain)),
            after: None,
            limit: 2,
        };
        let rows = self.domains.view_page(&page).await?.rows;
        let row = rows.first().with_context(|| format!("there is no domain {domain}"))?;
        self.domains
            .get(&row.id)
            .await?
            .with_context(|| format!("the Domain document of {domain} is gone"))
    }
}

fn client_config(url: &Url) -> CouchConfig {
    let (name, password) = (url.username().to_owned(), url.password().map(str::to_owned));
    let mut address = url.clone();
    // Both succeed on every URL with a host.
    address.set_username("").ok();
    address.set_password(None).ok();
    let mut config = CouchConfig::new(address);
    config.username = (!name.is_empty()).then_some(name);
    config.password = password.map(secrecy::SecretString::from);
    config.max_requests_per_second = None;
    config
}

impl Drop for Source {
    fn drop(&mut self) {
        if self.stand_in.is_some() {
            return;
        }
        let config = client_config(&self.url);
        let names = [self.forms.name().to_owned(), self.domains.name().to_owned()];
        let url = self.url.clone();
        // As for PostgreSQL: a runtime in a thread of its own.
        let dropping = std::thread::spawn(move || -> Result<()> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                for name in names {
                    delete_database(&url, &name, config.request_timeout).await?;
                }
                Ok(())
            })
        });
        if let Ok(Err(error)) = dropping.join() {
            eprintln!("a database is left behind on the Couch server: {error:#}");
        }
    }
}

/// Deletes a database; the client of the services cannot, and must not.
///
/// # Errors
/// The server cannot be reached, or refuses.
pub async fn delete_database(server: &Url, name: &str, timeout: std::time::Duration) -> Result<()> {
    let mut address = server.clone();
    address.set_path(&format!("{}/{name}", server.path().trim_end_matches('/')));
    let answer = reqwest::Client::new()
        .delete(address)
        .timeout(timeout)
        .send()
        .await
        .context("delete a database")?;
    if answer.status() != reqwest::StatusCode::NOT_FOUND {
        answer.error_for_status().context("delete a database")?;
    }
    Ok(())
}
