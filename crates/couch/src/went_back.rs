//! Whether a database went back, as after a restore from a back-up. Its identity and its name may be what they were, and a sequence
//! that it has not come to again looks like the end of its feed: only documents tell, of which a newer revision was once seen.

use crate::database::Database;
use crate::error::Result;

/// How often it is read before it is held against the database: one node of a cluster may be behind the others for a moment.
const READS: usize = 2;

impl Database {
    /// Whether any of these documents, as (id, a revision that it once had), is not there, not even as a deleted one, or has an
    /// older revision now.
    pub async fn went_back(&self, witnesses: &[(String, String)]) -> Result<bool> {
        if witnesses.is_empty() {
            return Ok(false);
        }
        let ids: Vec<&str> = witnesses.iter().map(|(id, _)| id.as_str()).collect();
        for _ in 0..READS {
            let now = self.all_docs_rows(&ids).await?;
            let lost = now
                .iter()
                .zip(witnesses)
                .any(|(now, (_, seen))| now.as_ref().is_none_or(|now| by_age(&now.rev) < by_age(seen)));
            if !lost {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// The order of the revisions of a document: of two that conflict, that of the greater text wins.
fn by_age(rev: &str) -> (u64, &str) {
    let number = rev.split('-').next().and_then(|number| number.parse().ok());
    (number.unwrap_or(0), rev)
}

#[cfg(test)]
mod tests {
    use super::by_age;

    #[test]
    fn revisions_are_ordered_by_number_and_then_by_text() {
        assert!(by_age("9-z") < by_age("10-a"));
        assert!(by_age("10-a") < by_age("10-b"));
    }
}
