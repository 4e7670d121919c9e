//! The messages that go through the broker.
//!
//! A message is a hint that a batch row is ready; the row in the state schema is the truth, and holds the ids of the
//! documents. The message says which row, of which epoch, for which stage, and enough to log and measure by. The form on
//! the wire is MessagePack with named fields, so that a field can be added without breaking older readers.

use serde::{Deserialize, Serialize};

use crate::doctype::DocType;
use crate::ids::{BatchId, Domain, Epoch};
use crate::topology::Stage;

/// Version of the message format. A reader accepts this one only.
pub const VERSION: u16 = 1;

/// No message is larger than this many bytes; the decoder refuses anything above it unread.
pub const MAX_BYTES: usize = 64 * 1024;

/// A batch message with its envelope.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchMessage {
    /// [`VERSION`] of the writer.
    pub version: u16,
    /// Domain of the batch.
    pub domain: Domain,
    /// Epoch of the migration; a message of another epoch is dropped.
    pub epoch: Epoch,
    /// The batch row.
    pub batch_id: BatchId,
    /// How often the batch had been claimed when the message was published.
    pub attempt: i32,
    /// What is to be done.
    pub body: BatchBody,
}

/// What a batch asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "stage", rename_all = "lowercase")]
pub enum BatchBody {
    /// Migrate documents of one type.
    Form {
        /// Type under which the scan found them.
        doc_type: DocType,
        /// How many.
        count: u32,
    },
    /// Replay cases.
    Case {
        /// How many.
        count: u32,
    },
    /// Diff cases.
    Diff {
        /// How many.
        count: u32,
    },
}

impl BatchBody {
    /// The stage whose queue it goes to.
    pub const fn stage(&self) -> Stage {
        match self {
            Self::Form { .. } => Stage::Form,
            Self::Case { .. } => Stage::Case,
            Self::Diff { .. } => Stage::Diff,
        }
    }
}

/// Why bytes are not a message for us.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Larger than [`MAX_BYTES`].
    #[error("message of {0} bytes is larger than the limit of {MAX_BYTES}")]
    Oversize(usize),
    /// A message, but of a version that this reader does not know.
    #[error("message version {0} is not supported (this service reads version {VERSION}); upgrade the older service")]
    Version(u16),
    /// Not MessagePack, or not of the expected shape.
    #[error("not a batch message")]
    Malformed(#[source] rmp_serde::decode::Error),
    /// Bytes after the end of the message.
    #[error("{0} bytes follow the message")]
    Trailing(usize),
}

impl BatchMessage {
    /// The message as bytes.
    pub fn encode(&self) -> Vec<u8> {
        // Unwrap safety: a derived Serialize of plain data into memory cannot fail.
        rmp_serde::to_vec_named(self).expect("plain data always encodes")
    }

    /// Reads a message.
    ///
    /// # Errors
    /// See [`DecodeError`]. Nothing in the bytes can make this allocate more than they are long.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > MAX_BYTES {
            return Err(DecodeError::Oversize(bytes.len()));
        }
        #[derive(Deserialize)]
        struct Versioned {
            version: u16,
        }
        let versioned: Versioned = rmp_serde::from_slice(bytes).map_err(DecodeError::Malformed)?;
        if versioned.version != VERSION {
            return Err(DecodeError::Version(versioned.version));
        }
        let mut reader = rmp_serde::Deserializer::new(std::io::Cursor::new(bytes));
        let message = Self::deserialize(&mut reader).map_err(DecodeError::Malformed)?;
        let read = usize::try_from(reader.position()).unwrap_or(usize::MAX);
        if read < bytes.len() {
            return Err(DecodeError::Trailing(bytes.len() - read));
        }
        Ok(message)
    }
}
