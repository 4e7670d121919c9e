//! The columns that are read and written, once for each table: from this list come the statements, the check of the
//! database's own columns, and the check of values before they are copied.

use std::fmt;

use bytes::BytesMut;
use postgres_types::FromSql;
use proto::rows::{BlobMetaRow, CaseBundle, FormBundle};
use tokio_postgres::Row;

use crate::copy::{Value, microseconds};

/// Type of a column, as binary COPY must know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ColumnType {
    /// `varchar` of so many characters.
    Varchar(usize),
    Text,
    Time,
    Bool,
    /// `smallint` with a check that it is not negative.
    Small,
    Int,
    Big,
    Uuid,
}

impl fmt::Display for ColumnType {
    /// As `format_type` of PostgreSQL shows it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Varchar(length) => write!(f, "character varying({length})"),
            Self::Text => f.write_str("text"),
            Self::Time => f.write_str("timestamp with time zone"),
            Self::Bool => f.write_str("boolean"),
            Self::Small => f.write_str("smallint"),
            Self::Int => f.write_str("integer"),
            Self::Big => f.write_str("bigint"),
            Self::Uuid => f.write_str("uuid"),
        }
    }
}

/// A column that we read and write.
pub(crate) type Column = (&'static str, ColumnType);

/// A table, with the columns that we read and write (`id` is not among them). The first column is the id of the document
/// that a row belongs to; `domain`, where the table has it, is the second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Table {
    pub(crate) name: &'static str,
    pub(crate) columns: &'static [Column],
}

/// Whether read rows are locked against other writers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lock {
    None,
    ForUpdate,
}

impl Table {
    /// The column of the document's id.
    pub(crate) fn key(&self) -> &'static str {
        self.columns[0].0
    }

    pub(crate) fn has_domain(&self) -> bool {
        self.columns[1].0 == "domain"
    }

    pub(crate) fn column_list(&self) -> String {
        let names: Vec<_> = self.columns.iter().map(|(name, _)| *name).collect();
        names.join(", ")
    }

    /// Reads the rows of many documents (`$1`: their ids): `id`, then the columns. The planner may not turn the inner
    /// query into a join (`offset 0`), so that it probes the index once for each id, whatever it believes of the table's
    /// size when it makes the plan, and however large the table is when the cached plan runs.
    pub(crate) fn select(&self, lock: Lock) -> String {
        let Self { name, .. } = self;
        let (columns, key) = (self.column_list(), self.key());
        let last = match lock {
            Lock::None => "offset 0",
            Lock::ForUpdate => "for update",
        };
        format!(
            "select found.* from unnest($1::text[]) as wanted (key) cross join lateral (\
             select id::bigint as id, {columns} from {name} where {key} = wanted.key {last}) found"
        )
    }

    /// Reads those rows of documents (`$1`) that are of forms (`$2`, one beside each document), by the index of forms: a
    /// form has few rows, and a document may have very many.
    pub(crate) fn select_of_forms(&self) -> String {
        let Self { name, .. } = self;
        let (columns, key) = (self.column_list(), self.key());
        format!(
            "select id, {columns} from unnest($1::text[], $2::text[]) as wanted (document, form) cross join lateral (\
             select id::bigint as id, {columns} from {name} where form_id = wanted.form offset 0) found \
             where {key} = wanted.document"
        )
    }

    pub(crate) fn copy(&self) -> String {
        format!("copy {} ({}) from stdin (format binary)", self.name, self.column_list())
    }

    /// Name of the temporary table that updated rows pass through.
    pub(crate) fn staging(&self) -> String {
        format!("c2s_{}", self.name)
    }

    pub(crate) fn create_staging(&self) -> String {
        format!(
            "create temporary table {} on commit delete rows as select id::bigint as id, {} from {} with no data",
            self.staging(),
            self.column_list(),
            self.name,
        )
    }

    pub(crate) fn copy_staging(&self) -> String {
        format!(
            "copy pg_temp.{} (id, {}) from stdin (format binary)",
            self.staging(),
            self.column_list()
        )
    }

    pub(crate) fn update_from_staging(&self) -> String {
        let sets: Vec<_> = self
            .columns
            .iter()
            .map(|(column, _)| format!("{column} = changed.{column}"))
            .collect();
        format!(
            "update {} as stored set {} from pg_temp.{} as changed where stored.id = changed.id",
            self.name,
            sets.join(", "),
            self.staging(),
        )
    }

    pub(crate) fn delete(&self) -> String {
        format!("delete from {} where id = any ($1)", self.name)
    }
}

/// The document that child rows belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner<'a> {
    pub(crate) id: &'a str,
    pub(crate) domain: &'a str,
}

/// A row of one of the tables.
pub(crate) trait TableRow: Sized {
    const TABLE: Table;

    /// Gives the values in the order of the table's columns.
    fn each_value<'a>(&'a self, owner: Owner<'a>, put: &mut dyn FnMut(Value<'a>));

    /// Reads what follows the owner's columns; `None` when a value is none that HQ writes.
    fn decode(cells: &mut Cells<'_>) -> Result<Option<Self>, tokio_postgres::Error>;
}

/// A stored row with what only the database knows of it.
#[derive(Clone, Debug)]
pub(crate) struct Stored<T> {
    pub(crate) id: i64,
    /// The document.
    pub(crate) owner: String,
    /// Its domain, where the table says it; else empty.
    pub(crate) domain: String,
    pub(crate) row: T,
}

/// Reads the cells of a row from left to right.
pub(crate) struct Cells<'a> {
    row: &'a Row,
    next: usize,
}

impl<'a> Cells<'a> {
    pub(crate) fn new(row: &'a Row) -> Self {
        Self { row, next: 0 }
    }

    pub(crate) fn take<T: FromSql<'a>>(&mut self) -> Result<T, tokio_postgres::Error> {
        let value = self.row.try_get(self.next);
        self.next += 1;
        value
    }

    /// Reads a nullable column that the query may not have asked for.
    pub(crate) fn take_if_present<T: FromSql<'a>>(&mut self) -> Result<Option<T>, tokio_postgres::Error> {
        if self.next < self.row.len() {
            self.take()
        } else {
            Ok(None)
        }
    }
}

/// The row's values as bytes: equal bytes mean equal rows in the database.
pub(crate) fn encoded<T: TableRow>(row: &T, owner: Owner<'_>) -> BytesMut {
    let mut out = BytesMut::with_capacity(256);
    row.each_value(owner, &mut |value| value.put(&mut out));
    out
}

/// Why a value cannot be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowFault {
    /// Text with a NUL character.
    #[error("the text holds a NUL character")]
    Nul,
    /// Text longer than the column.
    #[error("the text is longer than {max} characters")]
    TooLong {
        /// Characters that the column holds.
        max: usize,
    },
    /// A negative number where the table refuses them.
    #[error("the number is negative")]
    Negative,
    /// A date before the first that PostgreSQL knows.
    #[error("the date is out of range")]
    OutOfRange,
}

/// A value that its column cannot hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("column {column} of {table}: {why}")]
pub struct RowError {
    /// Table.
    pub table: &'static str,
    /// Column.
    pub column: &'static str,
    /// Why.
    pub why: RowFault,
}

/// PostgreSQL's first date, 4714-11-24 BC, in microseconds from 2000.
const FIRST_TIME: i64 = -211_813_488_000_000_000;

fn fault(value: Value<'_>, column: ColumnType) -> Option<RowFault> {
    match (value, column) {
        (Value::Text(text), _) if text.as_bytes().contains(&0) => Some(RowFault::Nul),
        (Value::Text(text), ColumnType::Varchar(max)) if text.len() > max && text.chars().count() > max => {
            Some(RowFault::TooLong { max })
        }
        (Value::Small(number), ColumnType::Small) if number < 0 => Some(RowFault::Negative),
        (Value::Time(time), _) if microseconds(time) < FIRST_TIME => Some(RowFault::OutOfRange),
        _ => None,
    }
}

fn check<T: TableRow>(row: &T, owner: Owner<'_>) -> Result<(), RowError> {
    let table = T::TABLE;
    let mut columns = table.columns.iter();
    let mut found = None;
    row.each_value(owner, &mut |value| {
        if let Some((column, column_type)) = columns.next()
            && found.is_none()
            && let Some(why) = fault(value, *column_type)
        {
            found = Some(RowError {
                table: table.name,
                column,
                why,
            });
        }
    });
    found.map_or(Ok(()), Err)
}

/// Checks that the tables can hold a form and its operations: text without NUL and no longer than its column, numbers
/// and dates in range.
///
/// # Errors
/// The first value that cannot be stored.
pub fn check_form(bundle: &FormBundle) -> Result<(), RowError> {
    let owner = Owner {
        id: &bundle.form.form_id,
        domain: &bundle.form.domain,
    };
    check(&bundle.form, owner)?;
    bundle.operations.iter().try_for_each(|row| check(row, owner))
}

/// Checks that the tables can hold a case and all of its children.
///
/// # Errors
/// The first value that cannot be stored.
pub fn check_case(bundle: &CaseBundle) -> Result<(), RowError> {
    let owner = Owner {
        id: &bundle.case.case_id,
        domain: &bundle.case.domain,
    };
    check(&bundle.case, owner)?;
    bundle.indices.iter().try_for_each(|row| check(row, owner))?;
    bundle.attachments.iter().try_for_each(|row| check(row, owner))?;
    bundle.transactions.iter().try_for_each(|row| check(row, owner))?;
    bundle.ledger_values.iter().try_for_each(|row| check(row, owner))?;
    bundle.ledger_transactions.iter().try_for_each(|row| check(row, owner))
}

/// Checks that the table can hold a row of blob metadata.
///
/// # Errors
/// The first value that cannot be stored.
pub fn check_blobmeta(row: &BlobMetaRow) -> Result<(), RowError> {
    check(
        row,
        Owner {
            id: &row.parent_id,
            domain: &row.domain,
        },
    )
}
