//! What a form may still cost while it is converted.

use crate::limits::{
    LEAST_COUNTED_BYTES, MAX_MEMORY_PER_BYTE, MAX_NAMESPACE_BYTES_PER_BYTE, MAX_NODES, MAX_TEXT_BYTES,
};
use crate::markup::Problem;

/// Most memory that an element takes: a place among the entries that wait for their parent's end, and one in a list.
/// Either collection may just be moving to one of twice its size.
const ELEMENT_BYTES: usize = 400;

/// Most memory that an element which is not plain text takes besides.
const OBJECT_BYTES: usize = 100;

/// Memory of an attribute of an element with few, whose object is made at its final size.
const ATTRIBUTE_BYTES: usize = 130;

/// Most memory of an attribute of an element with many, whose object grows as it is filled.
const FURTHER_ATTRIBUTE_BYTES: usize = 520;

/// Most keys an object is given room for at once. Entries of one name become one key, so their number is no measure.
pub(crate) const MAX_RESERVED_KEYS: usize = 32;

/// Counts what has been used, and refuses what goes beyond the bounds of [`crate::limits`].
pub(crate) struct Allowance {
    nodes: Share,
    memory: Share,
    namespaces: Share,
}

/// So much of one thing.
struct Share {
    what: &'static str,
    used: usize,
    maximum: usize,
}

impl Share {
    const fn new(what: &'static str, maximum: usize) -> Self {
        Self { what, used: 0, maximum }
    }

    const fn take(&mut self, amount: usize) -> Result<(), Problem> {
        self.used = self.used.saturating_add(amount);
        if self.used > self.maximum {
            return Err(Problem::Limit(self.what, self.maximum));
        }
        Ok(())
    }
}

impl Allowance {
    /// For XML of so many bytes.
    pub(crate) fn new(xml_bytes: usize) -> Self {
        let counted = xml_bytes.max(LEAST_COUNTED_BYTES);
        Self {
            nodes: Share::new("elements and attributes", MAX_NODES),
            memory: Share::new("bytes of memory", counted.saturating_mul(MAX_MEMORY_PER_BYTE)),
            namespaces: Share::new(
                "bytes of namespaces",
                counted.saturating_mul(MAX_NAMESPACE_BYTES_PER_BYTE),
            ),
        }
    }

    /// An element begins.
    pub(crate) fn take_element(&mut self) -> Result<(), Problem> {
        self.nodes.take(1)?;
        self.memory.take(ELEMENT_BYTES)
    }

    /// An element has so many attributes and declarations.
    pub(crate) fn take_attributes(&mut self, count: usize) -> Result<(), Problem> {
        self.nodes.take(count)?;
        let few = count.min(MAX_RESERVED_KEYS);
        self.memory.take(few * ATTRIBUTE_BYTES)?;
        self.memory.take((count - few).saturating_mul(FURTHER_ATTRIBUTE_BYTES))
    }

    /// An element has turned out to be more than text.
    pub(crate) fn take_object(&mut self) -> Result<(), Problem> {
        self.memory.take(OBJECT_BYTES)
    }

    /// A namespace is written into the JSON.
    pub(crate) fn take_namespace(&mut self, uri: &str) -> Result<(), Problem> {
        self.namespaces.take(uri.len())
    }
}

/// Refuses an attribute value or text that is too long.
pub(crate) const fn check_text(text: &str) -> Result<(), Problem> {
    if text.len() > MAX_TEXT_BYTES {
        return Err(Problem::Limit("bytes of one text", MAX_TEXT_BYTES));
    }
    Ok(())
}
