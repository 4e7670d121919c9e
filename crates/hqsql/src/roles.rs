//! What the services' roles must be allowed to do on HQ's databases, and nothing else.

use std::fmt::Write;

use proto::rows::{
    AttachmentRow, BlobMetaRow, CaseRow, FormRow, IndexRow, LedgerTransactionRow, LedgerValueRow, OperationRow,
    TransactionRow,
};

use crate::fence::FENCE_TABLE;
use crate::stock;
use crate::table::{Table, TableRow};

/// What a role is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The coordinator, form workers and case workers.
    Writer,
    /// Diff workers: they read only.
    Reader,
}

const TABLES: [Table; 9] = [
    FormRow::TABLE,
    OperationRow::TABLE,
    CaseRow::TABLE,
    IndexRow::TABLE,
    AttachmentRow::TABLE,
    TransactionRow::TABLE,
    LedgerValueRow::TABLE,
    LedgerTransactionRow::TABLE,
    BlobMetaRow::TABLE,
];

const PROGRESS: &str = "domain_migration_flags_domainmigrationprogress";

/// SQL that grants a role of this name what it needs; to be run in every database by the owner of its tables. Lines that
/// concern the default database only are marked.
pub fn role_grants(role: Role, name: &str) -> String {
    let name = format!("\"{}\"", name.replace('"', "\"\""));
    let mut sql = String::new();
    // Writing into a String cannot fail.
    let mut line = |text: &str| {
        let _ = writeln!(sql, "{text}");
    };
    line("-- in every database that holds forms and cases");
    for table in TABLES {
        match role {
            Role::Reader => line(&format!("grant select on {} to {name};", table.name)),
            Role::Writer => {
                line(&format!(
                    "grant select, insert, update, delete on {} to {name};",
                    table.name
                ));
                line(&format!("grant usage on sequence {}_id_seq to {name};", table.name));
            }
        }
    }
    match role {
        Role::Reader => line(&format!("grant select on {FENCE_TABLE} to {name};")),
        Role::Writer => {
            line(&format!("grant select, insert, update on {FENCE_TABLE} to {name};"));
            line(
                "-- updated rows pass through temporary tables; PostgreSQL allows those to everybody unless it was revoked:",
            );
            line(&format!(
                "do $$ begin execute format('grant temporary on database %I to {name}', current_database()); end $$;"
            ));
        }
    }
    line("-- in the default database");
    match role {
        Role::Reader => line(&format!("grant select on {PROGRESS} to {name};")),
        Role::Writer => {
            line(&format!("grant select, insert, update on {PROGRESS} to {name};"));
            line(&format!("grant usage on sequence {PROGRESS}_id_seq to {name};"));
        }
    }
    line("-- in the default database, and only there where HQ has these tables");
    for table in stock::TABLES {
        line(&format!(
            "do $$ begin if to_regclass('{table}') is not null then grant select on {table} to {name}; end if; end $$;"
        ));
    }
    sql
}
