//! Loading domains that are too large to be held in memory.

use anyhow::Result;
use generator::Options;

use super::World;
use crate::load::{self, Loaded};

/// Documents gathered before they are written: some megabytes, so that the memory of this process stays bounded.
const DOCS_AT_ONCE: usize = 2000;

impl World {
    /// Generates a domain and puts it where the migration finds it, piece by piece.
    ///
    /// # Errors
    /// Those of the servers.
    pub async fn load_streamed(&self, options: &Options) -> Result<Loaded> {
        let blobs = self.folder().join("blobs");
        let mut loaded = Loaded::default();
        let mut pieces = generator::stream(options);
        while let Some(piece) = load::gather(&mut pieces, DOCS_AT_ONCE) {
            loaded.add(&piece);
            tokio::try_join!(
                self.load_documents(piece.docs),
                load::write_blobs(&blobs, piece.blobs),
                self.shards().load_blobmeta(&piece.blobmeta),
            )?;
        }
        load::write_documents(self.source().domains(), &[generator::domain_doc(options)]).await?;
        Ok(loaded)
    }
}
