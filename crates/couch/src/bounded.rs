//! Many documents, a bounded number of bytes at a time.

use crate::bulk::{BULK_GET_IDS, Fetched, Outcome};
use crate::database::Database;
use crate::error::{Error, Result};

const OP: &str = "bulk_get";

/// Reads documents in their order, as many at a time as have room together. How many that may be it learns from the sizes
/// that it meets.
#[derive(Debug)]
pub struct BoundedReader<'a> {
    database: &'a Database,
    max_bytes: usize,
    at_once: usize,
}

impl Database {
    /// A reader whose answers have at most so many bytes of JSON, but for a document that is above that alone.
    pub fn bounded_reader(&self, max_bytes: usize) -> BoundedReader<'_> {
        BoundedReader {
            database: self,
            max_bytes,
            at_once: BULK_GET_IDS,
        }
    }
}

impl BoundedReader<'_> {
    /// The first of these documents, at least one if there are any, in the order of the ids, which must be distinct. Ask
    /// again with the others.
    ///
    /// # Errors
    /// As [`Database::bulk_get`]; a document above the limit of all answers comes back as [`Outcome::Failed`].
    pub async fn next(&mut self, ids: &[impl AsRef<str>]) -> Result<Vec<Fetched>> {
        loop {
            let part: Vec<&str> = ids.iter().take(self.at_once).map(AsRef::as_ref).collect();
            if part.is_empty() {
                return Ok(Vec::new());
            }
            // Alone, it may be as large as any answer.
            let limit = (part.len() > 1).then_some(self.max_bytes);
            match self.database.read_once(OP, "_bulk_get", &part, limit).await {
                Ok(fetched) => {
                    self.at_once = (self.at_once * 2).min(BULK_GET_IDS);
                    return Ok(fetched);
                }
                Err(Error::TooLarge { .. }) if part.len() > 1 => self.at_once = part.len() / 2,
                Err(error @ Error::TooLarge { .. }) => {
                    return Ok(vec![Fetched {
                        id: part[0].to_owned(),
                        outcome: Outcome::Failed(error),
                    }]);
                }
                Err(error) => return Err(error),
            }
        }
    }
}
