//! Rows of cases: the case, its indices, attachments, transactions and ledgers.

use proto::effects::Relationship;
use proto::rows::{AttachmentRow, CaseRow, IndexRow, LedgerTransactionRow, LedgerValueRow, TransactionRow};

use crate::copy::Value;
use crate::table::ColumnType::{Big, Bool, Int, Small, Text, Time, Uuid, Varchar};
use crate::table::{Cells, Owner, Table, TableRow};

impl TableRow for CaseRow {
    const TABLE: Table = Table {
        name: "form_processor_commcarecasesql",
        columns: &[
            ("case_id", Varchar(255)),
            ("domain", Varchar(255)),
            ("type", Varchar(255)),
            ("name", Varchar(255)),
            ("owner_id", Varchar(255)),
            ("opened_on", Time),
            ("opened_by", Varchar(255)),
            ("modified_on", Time),
            ("server_modified_on", Time),
            ("modified_by", Varchar(255)),
            ("closed", Bool),
            ("closed_on", Time),
            ("closed_by", Varchar(255)),
            ("deleted", Bool),
            ("deleted_on", Time),
            ("deletion_id", Varchar(255)),
            ("external_id", Varchar(255)),
            ("location_id", Varchar(255)),
            ("case_json", Text),
        ],
    };

    fn each_value<'a>(&'a self, owner: Owner<'a>, put: &mut dyn FnMut(Value<'a>)) {
        put(owner.id.into());
        put(owner.domain.into());
        put((&self.case_type).into());
        put((&self.name).into());
        put((&self.owner_id).into());
        put(self.opened_on.into());
        put((&self.opened_by).into());
        put(self.modified_on.into());
        put(self.server_modified_on.into());
        put((&self.modified_by).into());
        put(self.closed.into());
        put(self.closed_on.into());
        put((&self.closed_by).into());
        put(self.deleted.into());
        put(self.deleted_on.into());
        put((&self.deletion_id).into());
        put((&self.external_id).into());
        put((&self.location_id).into());
        put((&self.case_json).into());
    }

    fn decode(cells: &mut Cells<'_>) -> Result<Option<Self>, tokio_postgres::Error> {
        Ok(Some(Self {
            case_id: String::new(),
            domain: String::new(),
            case_type: cells.take()?,
            name: cells.take()?,
            owner_id: cells.take()?,
            opened_on: cells.take()?,
            opened_by: cells.take()?,
            modified_on: cells.take()?,
            server_modified_on: cells.take()?,
            modified_by: cells.take()?,
            closed: cells.take()?,
            closed_on: cells.take()?,
            closed_by: cells.take()?,
            deleted: cells.take()?,
            deleted_on: cells.take()?,
            deletion_id: cells.take()?,
            external_id: cells.take()?,
            location_id: cells.take()?,
            case_json: cells.take()?,
        }))
    }
}

impl TableRow for IndexRow {
    const TABLE: Table = Table {
        name: "form_processor_commcarecaseindexsql",
        columns: &[
            ("case_id", Varchar(255)),
            ("domain", Varchar(255)),
            ("identifier", Varchar(255)),
            ("referenced_id", Varchar(255)),
            ("referenced_type", Varchar(255)),
            ("relationship_id", Small),
        ],
    };

    fn each_value<'a>(&'a self, owner: Owner<'a>, put: &mut dyn FnMut(Value<'a>)) {
        put(owner.id.into());
        put(owner.domain.into());
        put((&self.identifier).into());
        put((&self.referenced_id).into());
        put((&self.referenced_type).into());
        put(self.relationship.id().into());
    }

    fn decode(cells: &mut Cells<'_>) -> Result<Option<Self>, tokio_postgres::Error> {
        let (identifier, referenced_id, referenced_type) = (cells.take()?, cells.take()?, cells.take()?);
        let relationship = Relationship::from_id(cells.take()?);
        Ok(relationship.map(|relationship| Self {
            identifier,
            referenced_id,
            referenced_type,
            relationship,
        }))
    }
}

impl TableRow for AttachmentRow {
    const TABLE: Table = Table {
        name: "form_processor_caseattachmentsql",
        columns: &[
            ("case_id", Varchar(255)),
            ("attachment_id", Uuid),
            ("name", Varchar(255)),
            ("content_type", Varchar(255)),
            ("content_length", Int),
            ("properties", Text),
            ("blob_id", Varchar(255)),
            ("blob_bucket", Varchar(255)),
            ("md5", Varchar(255)),
        ],
    };

    fn each_value<'a>(&'a self, owner: Owner<'a>, put: &mut dyn FnMut(Value<'a>)) {
        put(owner.id.into());
        put(self.attachment_id.into());
        put((&self.name).into());
        put((&self.content_type).into());
        put(self.content_length.into());
        put((&self.properties).into());
        put((&self.blob_id).into());
        put((&self.blob_bucket).into());
        put((&self.md5).into());
    }

    fn decode(cells: &mut Cells<'_>) -> Result<Option<Self>, tokio_postgres::Error> {
        Ok(Some(Self {
            attachment_id: cells.take()?,
            name: cells.take()?,
            content_type: cells.take()?,
            content_length: cells.take()?,
            properties: cells.take()?,
            blob_id: cells.take()?,
            blob_bucket: cells.take()?,
            md5: cells.take()?,
        }))
    }
}

impl TableRow for TransactionRow {
    const TABLE: Table = Table {
        name: "form_processor_casetransaction",
        columns: &[
            ("case_id", Varchar(255)),
            ("form_id", Varchar(255)),
            ("sync_log_id", Varchar(255)),
            ("server_date", Time),
            ("client_date", Time),
            ("type", Small),
            ("revoked", Bool),
            ("details", Text),
        ],
    };

    fn each_value<'a>(&'a self, owner: Owner<'a>, put: &mut dyn FnMut(Value<'a>)) {
        put(owner.id.into());
        put((&self.form_id).into());
        put((&self.sync_log_id).into());
        put(self.server_date.into());
        put(self.client_date.into());
        put(self.kind.into());
        put(self.revoked.into());
        put((&self.details).into());
    }

    fn decode(cells: &mut Cells<'_>) -> Result<Option<Self>, tokio_postgres::Error> {
        Ok(Some(Self {
            form_id: cells.take()?,
            sync_log_id: cells.take()?,
            server_date: cells.take()?,
            client_date: cells.take()?,
            kind: cells.take()?,
            revoked: cells.take()?,
            details: cells.take()?,
        }))
    }
}

impl TableRow for LedgerValueRow {
    /// `daily_consumption` is not listed: it is NULL in new rows, and what HQ computed there is left alone.
    const TABLE: Table = Table {
        name: "form_processor_ledgervalue",
        columns: &[
            ("case_id", Varchar(255)),
            ("domain", Varchar(255)),
            ("entry_id", Varchar(100)),
            ("section_id", Varchar(100)),
            ("balance", Int),
            ("last_modified", Time),
            ("last_modified_form_id", Varchar(100)),
        ],
    };

    fn each_value<'a>(&'a self, owner: Owner<'a>, put: &mut dyn FnMut(Value<'a>)) {
        put(owner.id.into());
        put(owner.domain.into());
        put((&self.entry_id).into());
        put((&self.section_id).into());
        put(self.balance.into());
        put(self.last_modified.into());
        put((&self.last_modified_form_id).into());
    }

    fn decode(cells: &mut Cells<'_>) -> Result<Option<Self>, tokio_postgres::Error> {
        Ok(Some(Self {
            entry_id: cells.take()?,
            section_id: cells.take()?,
            balance: cells.take()?,
            last_modified: cells.take()?,
            last_modified_form_id: cells.take()?,
        }))
    }
}

impl TableRow for LedgerTransactionRow {
    const TABLE: Table = Table {
        name: "form_processor_ledgertransaction",
        columns: &[
            ("case_id", Varchar(255)),
            ("form_id", Varchar(255)),
            ("server_date", Time),
            ("report_date", Time),
            ("type", Small),
            ("entry_id", Varchar(100)),
            ("section_id", Varchar(100)),
            ("user_defined_type", Varchar(20)),
            ("delta", Big),
            ("updated_balance", Big),
        ],
    };

    fn each_value<'a>(&'a self, owner: Owner<'a>, put: &mut dyn FnMut(Value<'a>)) {
        put(owner.id.into());
        put((&self.form_id).into());
        put(self.server_date.into());
        put(self.report_date.into());
        put(self.kind.into());
        put((&self.entry_id).into());
        put((&self.section_id).into());
        put((&self.user_defined_type).into());
        put(self.delta.into());
        put(self.updated_balance.into());
    }

    fn decode(cells: &mut Cells<'_>) -> Result<Option<Self>, tokio_postgres::Error> {
        Ok(Some(Self {
            form_id: cells.take()?,
            server_date: cells.take()?,
            report_date: cells.take()?,
            kind: cells.take()?,
            entry_id: cells.take()?,
            section_id: cells.take()?,
            user_defined_type: cells.take()?,
            delta: cells.take()?,
            updated_balance: cells.take()?,
        }))
    }
}
