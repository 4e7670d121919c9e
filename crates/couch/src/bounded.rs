//! Many documents, a bounded number of bytes at a time.

use crate::bulk::{BULK_GET_IDS, Fetched, Outcome};
use crate::database::Database;
use crate::error::{Error, Result};

const OP: &str = "bulk_get";

/// Reads documents in the order of their ids, as many at a time as have room together. How many that may be it learns from
/// the sizes that it meets.
#[derive(Debug)]
pub struct BoundedReader<'a, I> {
    database: &'a Database,
    left: &'a [I],
    max_bytes: usize,
    at_once: usize,
}

impl Database {
    /// A reader of these documents, which must be distinct. Its answers have at most so many bytes of JSON, but for a
    /// document that is above that alone.
    pub fn bounded_reader<'a, I: AsRef<str>>(&'a self, ids: &'a [I], max_bytes: usize) -> BoundedReader<'a, I> {
        BoundedReader {
            database: self,
            left: ids,
            max_bytes,
            at_once: BULK_GET_IDS,
        }
    }
}

impl<I: AsRef<str>> BoundedReader<'_, I> {
    /// The next documents, at least one; none when all were read. What failed as a whole may be asked for again.
    ///
    /// # Errors
    /// As [`Database::bulk_get`]; a document above the limit of all answers comes back as [`Outcome::Failed`].
    pub async fn next(&mut self) -> Result<Option<Vec<Fetched>>> {
        let read = self.read().await?;
        self.left = &self.left[read.len().min(self.left.len())..];
        Ok((!read.is_empty()).then_some(read))
    }

    async fn read(&mut self) -> Result<Vec<Fetched>> {
        loop {
            let part: Vec<&str> = self.left.iter().take(self.at_once).map(AsRef::as_ref).collect();
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
