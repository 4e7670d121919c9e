//! The columns and properties of a case while forms are applied to it.

use chrono::{DateTime, Utc};
use proto::effects::{BlockVersion, CaseUpdate, FormFacts, KnownProperty, PropertyValue};
use proto::ids::{CaseId, Domain};
use proto::rows::{CaseRow, RejectReason};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{columns, iso8601, pyjson};

/// Keys of an update that HQ drops: they are names of the block itself, of known properties, or of what other parts of HQ
/// maintain.
pub(crate) const RESTRICTED: [&str; 8] = [
    "case_id",
    "@case_id",
    "date_modified",
    "case_type",
    "case_name",
    "date_opened",
    "supply_point_location_id",
    "@xmlns",
];

/// A case in the making. `None` is NULL; the default is what a new case starts from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Draft {
    case_type: String,
    name: Option<String>,
    /// NOT NULL in the table, but HQ may leave it NULL and then fails to save the form.
    owner_id: OwnerId,
    opened_on: Option<DateTime<Utc>>,
    opened_by: Option<String>,
    modified_on: Option<DateTime<Utc>>,
    modified_by: String,
    closed: bool,
    closed_on: Option<DateTime<Utc>>,
    closed_by: Option<String>,
    external_id: Option<String>,
    location_id: Option<String>,
    properties: Map<String, Value>,
}

/// An owner column that starts as `""` and can still become NULL.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct OwnerId(Option<String>);

impl Default for OwnerId {
    fn default() -> Self {
        Self(Some(String::new()))
    }
}

/// What a block says of itself, with the form's facts where it is silent.
pub(crate) struct Block<'a> {
    /// The block's user, else the form's; `None` is Python's None, which only a V1 block can have: the V2 attribute
    /// defaults to an empty text.
    user_id: Option<&'a str>,
    modified_on: DateTime<Utc>,
}

impl<'a> Block<'a> {
    pub(crate) fn of(form: &'a FormFacts, update: &'a CaseUpdate) -> Self {
        let named = |user: &'a Option<String>| user.as_deref().filter(|user| !user.is_empty());
        let silent = match update.version {
            BlockVersion::V1 => None,
            BlockVersion::V2 => Some(""),
        };
        Self {
            user_id: named(&update.user_id).or_else(|| named(&form.user_id)).or(silent),
            modified_on: modified_on(form, update),
        }
    }

    fn names_a_user(&self) -> bool {
        self.user_id.is_some_and(|user| !user.is_empty())
    }
}

/// When the phone made the change. HQ takes the time of processing for a block without a date; a replay has no such time.
pub(crate) fn modified_on(form: &FormFacts, update: &CaseUpdate) -> DateTime<Utc> {
    update.modified_on.unwrap_or(form.received_on)
}

fn is_empty(column: Option<&str>) -> bool {
    column.is_none_or(str::is_empty)
}

impl Draft {
    /// The case as a rebuild finds it before it applies the first form: texts are empty instead of NULL, and the location
    /// stays.
    pub(crate) fn reset(&self) -> Self {
        let empty = || Some(String::new());
        Self {
            name: empty(),
            opened_by: empty(),
            closed_by: empty(),
            external_id: empty(),
            location_id: self.location_id.clone(),
            ..Self::default()
        }
    }

    /// Writes known properties, empty texts too.
    pub(crate) fn set_known(
        &mut self,
        known: &[(KnownProperty, PropertyValue)],
        block: &Block<'_>,
    ) -> Result<(), RejectReason> {
        for (property, value) in known {
            match property {
                KnownProperty::Type => {
                    if let Some(text) = columns::cut_property(value)? {
                        self.case_type = text;
                    }
                }
                KnownProperty::Name => set(&mut self.name, columns::cut_property(value)?),
                KnownProperty::OwnerId => set(&mut self.owner_id.0, columns::cut_property(value)?),
                KnownProperty::ExternalId => set(&mut self.external_id, columns::cut_property(value)?),
                // The user of the block overrides it at the end of the block, whatever it was.
                KnownProperty::UserId if block.names_a_user() => {}
                KnownProperty::UserId => {
                    if let Some(text) = columns::whole_property(value)? {
                        self.modified_by = text;
                    }
                }
                KnownProperty::OpenedOn => match value.to_json() {
                    Value::Null => {}
                    Value::String(text) => {
                        self.opened_on = Some(iso8601::parse(&text).ok_or(RejectReason::BadOpenedOn)?);
                    }
                    _ => return Err(RejectReason::BadOpenedOn),
                },
            }
        }
        Ok(())
    }

    /// Writes the other properties of an update. `name` and `location_id` have columns here too, but are not cut.
    pub(crate) fn set_dynamic(&mut self, dynamic: &[(String, PropertyValue)]) -> Result<(), RejectReason> {
        for (key, value) in dynamic {
            match key.as_str() {
                "location_id" => set(&mut self.location_id, columns::whole_property(value)?),
                "name" => set(&mut self.name, columns::whole_property(value)?),
                key if RESTRICTED.contains(&key) => {}
                key => {
                    if key == "hq_user_id" {
                        set(&mut self.external_id, columns::whole_property(value)?);
                    }
                    self.properties.insert(key.to_owned(), value.to_json());
                }
            }
        }
        Ok(())
    }

    /// Closes the case; a later block that closes it again overwrites when and by whom.
    pub(crate) fn close(&mut self, block: &Block<'_>) {
        self.closed = true;
        self.closed_on = Some(block.modified_on);
        self.closed_by = block.user_id.map(str::to_owned);
    }

    /// What every block does after its actions.
    pub(crate) fn finish_block(&mut self, block: &Block<'_>) {
        if let Some(user) = block.user_id
            && block.names_a_user()
            && self.modified_by != user
        {
            user.clone_into(&mut self.modified_by);
        }
        self.modified_on = self.modified_on.max(Some(block.modified_on));
        self.opened_on.get_or_insert(block.modified_on);
        if is_empty(self.opened_by.as_deref()) {
            self.opened_by = block.user_id.map(str::to_owned);
        }
        if is_empty(self.owner_id.0.as_deref()) {
            self.owner_id.0 = block.user_id.map(str::to_owned);
        }
    }

    /// Whether the row can be saved, as HQ finds out at the end of each form.
    pub(crate) fn check(&self) -> Result<(), RejectReason> {
        let owner_id = self.owner_id.0.as_deref().ok_or(RejectReason::NoOwner)?;
        columns::fits(&self.case_type)?;
        columns::fits(owner_id)?;
        columns::fits(&self.modified_by)?;
        for column in [
            &self.name,
            &self.opened_by,
            &self.closed_by,
            &self.external_id,
            &self.location_id,
        ] {
            columns::fits_option(column.as_deref())?;
        }
        Ok(())
    }

    /// The row.
    ///
    /// The server's date is that of the last form that touched the case, by a ledger too.
    pub(crate) fn into_row(self, domain: &Domain, case_id: &CaseId, last_form: Option<DateTime<Utc>>) -> CaseRow {
        let server_modified_on = last_form.or(self.modified_on).unwrap_or_default();
        CaseRow {
            case_id: case_id.as_str().to_owned(),
            domain: domain.as_str().to_owned(),
            case_type: self.case_type,
            name: self.name,
            owner_id: self.owner_id.0.unwrap_or_default(),
            opened_on: self.opened_on,
            opened_by: self.opened_by,
            // Only a case without any block has none, and no such case is made.
            modified_on: self.modified_on.unwrap_or(server_modified_on),
            server_modified_on,
            modified_by: self.modified_by,
            closed: self.closed,
            closed_on: self.closed_on,
            closed_by: self.closed_by,
            deleted: false,
            deleted_on: None,
            deletion_id: None,
            external_id: self.external_id,
            location_id: self.location_id,
            case_json: pyjson::dumps_object(self.properties.iter().map(|(key, value)| (key.as_str(), value))),
        }
    }
}

fn set(column: &mut Option<String>, value: Option<String>) {
    if value.is_some() {
        *column = value;
    }
}
