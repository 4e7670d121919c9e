//! Rows of forms: the form, its operations, its blob metadata.

use proto::rows::{BlobMetaRow, FormRow, OperationRow};

use crate::copy::Value;
use crate::table::ColumnType::{Big, Bool, Small, Text, Time, Varchar};
use crate::table::{Cells, Owner, Table, TableRow};

impl TableRow for FormRow {
    const TABLE: Table = Table {
        name: "form_processor_xforminstancesql",
        columns: &[
            ("form_id", Varchar(255)),
            ("domain", Varchar(255)),
            ("app_id", Varchar(255)),
            ("xmlns", Varchar(255)),
            ("user_id", Varchar(255)),
            ("orig_id", Varchar(255)),
            ("deprecated_form_id", Varchar(255)),
            ("server_modified_on", Time),
            ("received_on", Time),
            ("edited_on", Time),
            ("deleted_on", Time),
            ("deletion_id", Varchar(255)),
            ("auth_context", Text),
            ("openrosa_headers", Text),
            ("partial_submission", Bool),
            ("submit_ip", Varchar(255)),
            ("last_sync_token", Varchar(255)),
            ("problem", Text),
            ("date_header", Time),
            ("build_id", Varchar(255)),
            ("state", Small),
            ("initial_processing_complete", Bool),
        ],
    };

    fn each_value<'a>(&'a self, owner: Owner<'a>, put: &mut dyn FnMut(Value<'a>)) {
        put(owner.id.into());
        put(owner.domain.into());
        put((&self.app_id).into());
        put((&self.xmlns).into());
        put((&self.user_id).into());
        put((&self.orig_id).into());
        put((&self.deprecated_form_id).into());
        put(self.server_modified_on.into());
        put(self.received_on.into());
        put(self.edited_on.into());
        put(self.deleted_on.into());
        put((&self.deletion_id).into());
        put((&self.auth_context).into());
        put((&self.openrosa_headers).into());
        put(self.partial_submission.into());
        put((&self.submit_ip).into());
        put((&self.last_sync_token).into());
        put((&self.problem).into());
        put(self.date_header.into());
        put((&self.build_id).into());
        put(self.state.into());
        put(self.initial_processing_complete.into());
    }

    fn decode(cells: &mut Cells<'_>) -> Result<Option<Self>, tokio_postgres::Error> {
        Ok(Some(Self {
            form_id: String::new(),
            domain: String::new(),
            app_id: cells.take()?,
            xmlns: cells.take()?,
            user_id: cells.take()?,
            orig_id: cells.take()?,
            deprecated_form_id: cells.take()?,
            server_modified_on: cells.take()?,
            received_on: cells.take()?,
            edited_on: cells.take()?,
            deleted_on: cells.take()?,
            deletion_id: cells.take()?,
            auth_context: cells.take()?,
            openrosa_headers: cells.take()?,
            partial_submission: cells.take()?,
            submit_ip: cells.take()?,
            last_sync_token: cells.take()?,
            problem: cells.take()?,
            date_header: cells.take()?,
            build_id: cells.take()?,
            state: cells.take()?,
            initial_processing_complete: cells.take()?,
        }))
    }
}

impl TableRow for OperationRow {
    const TABLE: Table = Table {
        name: "form_processor_xformoperationsql",
        columns: &[
            ("form_id", Varchar(255)),
            ("user_id", Varchar(255)),
            ("operation", Varchar(255)),
            ("date", Time),
        ],
    };

    fn each_value<'a>(&'a self, owner: Owner<'a>, put: &mut dyn FnMut(Value<'a>)) {
        put(owner.id.into());
        put((&self.user_id).into());
        put((&self.operation).into());
        put(self.date.into());
    }

    fn decode(cells: &mut Cells<'_>) -> Result<Option<Self>, tokio_postgres::Error> {
        Ok(Some(Self {
            user_id: cells.take()?,
            operation: cells.take()?,
            date: cells.take()?,
        }))
    }
}

/// `blobs_blobmeta` of databases that have no `compressed_length` yet.
pub(crate) const BLOBMETA_WITHOUT_COMPRESSION: Table = Table {
    name: "blobs_blobmeta",
    columns: {
        let (columns, _) = <BlobMetaRow as TableRow>::TABLE.columns.split_at(9);
        columns
    },
};

impl TableRow for BlobMetaRow {
    /// `compressed_length` stands last, since older databases lack it.
    const TABLE: Table = Table {
        name: "blobs_blobmeta",
        columns: &[
            ("parent_id", Varchar(255)),
            ("domain", Varchar(255)),
            ("name", Varchar(255)),
            ("key", Varchar(255)),
            ("type_code", Small),
            ("content_length", Big),
            ("content_type", Varchar(255)),
            ("properties", Text),
            ("created_on", Time),
            ("compressed_length", Big),
        ],
    };

    fn each_value<'a>(&'a self, owner: Owner<'a>, put: &mut dyn FnMut(Value<'a>)) {
        put(owner.id.into());
        put(owner.domain.into());
        put((&self.name).into());
        put((&self.key).into());
        put(self.type_code.into());
        put(self.content_length.into());
        put((&self.content_type).into());
        put((&self.properties).into());
        put(self.created_on.into());
        put(self.compressed_length.into());
    }

    fn decode(cells: &mut Cells<'_>) -> Result<Option<Self>, tokio_postgres::Error> {
        Ok(Some(Self {
            domain: String::new(),
            parent_id: String::new(),
            name: cells.take()?,
            key: cells.take()?,
            type_code: cells.take()?,
            content_length: cells.take()?,
            content_type: cells.take()?,
            properties: cells.take()?,
            created_on: cells.take()?,
            compressed_length: cells.take_if_present()?,
        }))
    }
}

#[cfg(test)]
mod tests {
    use proto::rows::FormBundle;

    use super::*;
    use crate::table::{RowError, RowFault, check_blobmeta, check_form};

    /// A column, how a text gets into it, and whether it is limited to 255 characters.
    type Place<T> = (&'static str, fn(&mut T, String), bool);

    fn form() -> FormBundle {
        FormBundle {
            form: FormRow {
                form_id: "f".to_owned(),
                domain: "demo".to_owned(),
                app_id: None,
                xmlns: String::new(),
                user_id: None,
                orig_id: None,
                deprecated_form_id: None,
                server_modified_on: None,
                received_on: chrono::DateTime::UNIX_EPOCH,
                edited_on: None,
                deleted_on: None,
                deletion_id: None,
                auth_context: "{}".to_owned(),
                openrosa_headers: "{}".to_owned(),
                partial_submission: false,
                submit_ip: None,
                last_sync_token: None,
                problem: None,
                date_header: None,
                build_id: None,
                state: 1,
                initial_processing_complete: true,
            },
            operations: vec![OperationRow {
                user_id: None,
                operation: "edit".to_owned(),
                date: chrono::DateTime::UNIX_EPOCH,
            }],
        }
    }

    const OF_FORMS: [Place<FormBundle>; 16] = [
        ("form_id", |row, text| row.form.form_id = text, true),
        ("domain", |row, text| row.form.domain = text, true),
        ("app_id", |row, text| row.form.app_id = Some(text), true),
        ("xmlns", |row, text| row.form.xmlns = text, true),
        ("user_id", |row, text| row.form.user_id = Some(text), true),
        ("orig_id", |row, text| row.form.orig_id = Some(text), true),
        (
            "deprecated_form_id",
            |row, text| row.form.deprecated_form_id = Some(text),
            true,
        ),
        ("deletion_id", |row, text| row.form.deletion_id = Some(text), true),
        ("auth_context", |row, text| row.form.auth_context = text, false),
        ("openrosa_headers", |row, text| row.form.openrosa_headers = text, false),
        ("submit_ip", |row, text| row.form.submit_ip = Some(text), true),
        (
            "last_sync_token",
            |row, text| row.form.last_sync_token = Some(text),
            true,
        ),
        ("problem", |row, text| row.form.problem = Some(text), false),
        ("build_id", |row, text| row.form.build_id = Some(text), true),
        ("user_id", |row, text| row.operations[0].user_id = Some(text), true),
        ("operation", |row, text| row.operations[0].operation = text, true),
    ];

    fn blob() -> BlobMetaRow {
        BlobMetaRow {
            domain: "demo".to_owned(),
            parent_id: "f".to_owned(),
            name: "form.xml".to_owned(),
            key: "k".to_owned(),
            type_code: 2,
            content_length: 1,
            compressed_length: None,
            content_type: None,
            properties: None,
            created_on: chrono::DateTime::UNIX_EPOCH,
        }
    }

    const OF_BLOBS: [Place<BlobMetaRow>; 6] = [
        ("parent_id", |row, text| row.parent_id = text, true),
        ("domain", |row, text| row.domain = text, true),
        ("name", |row, text| row.name = text, true),
        ("key", |row, text| row.key = text, true),
        ("content_type", |row, text| row.content_type = Some(text), true),
        ("properties", |row, text| row.properties = Some(text), false),
    ];

    fn assert_refused<T>(places: &[Place<T>], sound: impl Fn() -> T, check: impl Fn(&T) -> Result<(), RowError>) {
        assert_eq!(check(&sound()), Ok(()));
        for (column, put, is_limited) in places {
            // Characters count, not bytes.
            for (text, fault) in [
                ("é".repeat(255), None),
                ("é".repeat(256), is_limited.then_some(RowFault::TooLong { max: 255 })),
                ("a\0b".to_owned(), Some(RowFault::Nul)),
            ] {
                let mut row = sound();
                put(&mut row, text);
                let found = check(&row).err().map(|error| (error.column, error.why));
                assert_eq!(found, fault.map(|fault| (*column, fault)), "{column}");
            }
        }
    }

    #[test]
    fn no_column_takes_a_nul_or_more_characters_than_it_holds() {
        assert_refused(&OF_FORMS, form, check_form);
        assert_refused(&OF_BLOBS, blob, check_blobmeta);
    }

    #[test]
    fn older_blob_metadata_lacks_only_the_last_column() {
        let all = <BlobMetaRow as TableRow>::TABLE.columns;
        assert_eq!(all.last().map(|(name, _)| *name), Some("compressed_length"));
        assert_eq!(BLOBMETA_WITHOUT_COMPRESSION.columns.len(), all.len() - 1);
    }
}
