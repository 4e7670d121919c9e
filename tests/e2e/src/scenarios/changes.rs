//! What changes in the source, the blob store and the target: before a command, or while it runs.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::expected::Row;
use super::folder::Folder;
use super::input::{self, Input};
use super::rows::BLOBMETA;
use super::runner::Stage;
use crate::load;
use crate::world::World;

/// Changes, in the order in which they are made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Changes<'a> {
    /// A folder with input as the scenario's own.
    pub(super) input: Option<&'a Path>,
    /// Ids of documents that vanish from Couch.
    pub(super) purge: &'a [String],
    /// Statements on the target.
    pub(super) sql: &'a [String],
}

/// Makes changes.
pub(super) async fn make(stage: &Stage, folder: &Folder, changes: &Changes<'_>, loaded: &mut Vec<Row>) -> Result<()> {
    if let Some(part) = changes.input {
        ensure!(folder.file(part).is_some(), "there is no folder {}", part.display());
        put(stage, input::read(folder, &stage.defaults, part)?, loaded).await?;
    }
    for id in changes.purge {
        let world = stage.world.lock().await;
        let id = folder.in_domain(id);
        let forms = world.source().forms().name().to_owned();
        ensure!(
            world.source().stand_in().delete(&forms, &id),
            "there is no document {id}"
        );
    }
    for statement in changes.sql {
        let world = stage.world.lock().await;
        let statement = folder.in_domain(statement);
        world.target().batch_execute(&statement).await.context(statement)?;
    }
    Ok(())
}

/// Puts the input where a migration finds it.
pub(super) async fn put(stage: &Stage, input: Input, loaded: &mut Vec<Row>) -> Result<()> {
    let world = stage.world.lock().await;
    load::write_blobs(&world.folder().join("blobs"), input.blobs).await?;
    let metadata = (BLOBMETA.name.to_owned(), input.blobmeta.clone());
    for (table, rows) in [metadata].into_iter().chain(input.rows) {
        insert(&world, &table, rows).await?;
    }
    loaded.extend(input.blobmeta.iter().filter_map(Value::as_object).cloned());
    let stand_in = world.source().stand_in();
    let forms = world.source().forms().name();
    for document in input.documents {
        let id = document["_id"].as_str().context("a document without _id")?;
        if document["_deleted"] == true {
            ensure!(stand_in.delete(forms, id), "there is no document {id} to delete");
        } else {
            stand_in.put(forms, &document)?;
        }
    }
    Ok(())
}

/// Inserts rows; columns that a row leaves out have the table's default.
async fn insert(world: &World, table: &str, rows: Vec<Value>) -> Result<()> {
    for row in rows {
        let Value::Object(columns) = &row else { continue };
        let names: Vec<&str> = columns.keys().map(String::as_str).collect();
        let names = names.join(", ");
        let sql = format!(
            "insert into {table} ({names}) select {names} from json_populate_record(null::{table}, $1::text::json)"
        );
        let text = row.to_string();
        world
            .target()
            .execute(&sql, &[&text])
            .await
            .with_context(|| format!("insert {row} into {table}"))?;
    }
    Ok(())
}
