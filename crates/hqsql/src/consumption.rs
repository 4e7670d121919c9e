//! Daily consumption of ledgers. HQ computes it from its change feed, which is silent while a domain is migrated: a patch
//! copies it over.

use tokio_postgres::types::Type;

use crate::error::{Error, Result};
use crate::transaction::FencedTx;

/// A daily consumption to be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DailyConsumption<'a> {
    /// Case.
    pub case_id: &'a str,
    /// Section.
    pub section_id: &'a str,
    /// Entry: the product.
    pub entry_id: &'a str,
    /// A decimal number as text.
    pub value: &'a str,
}

impl FencedTx {
    /// Sets the daily consumption of those of these ledgers that the domain has and that have none. Returns how many.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn set_daily_consumptions(&self, consumptions: &[DailyConsumption<'_>]) -> Result<u64> {
        if consumptions.is_empty() {
            return Ok(0);
        }
        let of = |column: fn(&DailyConsumption<'_>) -> String| consumptions.iter().map(column).collect::<Vec<String>>();
        let update = "update form_processor_ledgervalue v set daily_consumption = i.value::numeric \
                      from unnest($2::text[], $3::text[], $4::text[], $5::text[]) i(case_id, section_id, entry_id, value) \
                      where v.domain = $1 and v.case_id = i.case_id and v.section_id = i.section_id \
                      and v.entry_id = i.entry_id and v.daily_consumption is null";
        self.client()?
            .execute_typed(
                update,
                &[
                    (&self.domain().as_str(), Type::TEXT),
                    (&of(|one| one.case_id.to_owned()), Type::TEXT_ARRAY),
                    (&of(|one| one.section_id.to_owned()), Type::TEXT_ARRAY),
                    (&of(|one| one.entry_id.to_owned()), Type::TEXT_ARRAY),
                    (&of(|one| one.value.to_owned()), Type::TEXT_ARRAY),
                ],
            )
            .await
            .map_err(Error::during("set daily consumption"))
    }
}
