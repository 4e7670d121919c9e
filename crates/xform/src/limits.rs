//! Bounds on what one form may cost. Beyond them a form is refused with an error; it is never read in part.

/// Largest `form.xml`, in bytes. HQ's web servers refuse far smaller submissions; the JSON of a form this large still fits
/// the memory of a worker.
pub const MAX_XML_BYTES: usize = 32 << 20;

/// Deepest nesting of elements, the root counting as one. libxml2 stops at the same depth, so HQ holds no deeper form.
pub const MAX_DEPTH: usize = 256;

/// Most elements and attributes together. A JSON object costs some hundred bytes whatever it holds, so a bound on bytes
/// alone would let a form of empty elements take gigabytes.
pub const MAX_NODES: usize = 500_000;

/// Most namespace declarations in scope at one place. Each prefix is looked up among them one by one.
pub const MAX_BINDINGS: usize = 256;

/// Longest attribute value, and longest text of an element, in bytes. libxml2 stops at the same length, so HQ holds no
/// form with a longer one.
pub const MAX_TEXT_BYTES: usize = 10_000_000;

/// A form smaller than this is allowed as much memory and as many bytes of namespaces as one of this size.
pub const LEAST_COUNTED_BYTES: usize = 1 << 20;

/// Most bytes of memory that the elements and attributes of a form may take for each byte of its XML while it is
/// converted. Markup that says next to nothing takes far more memory than its size, up to a hundredfold; the forms of
/// clients take about tenfold.
pub const MAX_MEMORY_PER_BYTE: usize = 36;

/// Most bytes that namespaces may add to the JSON for each byte of XML. A namespace is written once in the XML and repeated
/// in the JSON for each element that changes to it and for each qualified attribute: without a bound a small form could
/// grow a thousandfold.
pub const MAX_NAMESPACE_BYTES_PER_BYTE: usize = 4;

/// Longest text of a `varchar(255)` column in HQ's tables, in characters. Ids that do not fit can be stored nowhere.
pub const MAX_ID_CHARS: usize = 255;

/// Longest text of the `varchar(100)` columns that hold a ledger's section and entry, in characters.
pub const MAX_LEDGER_ID_CHARS: usize = 100;

/// Longest user-defined type of a ledger transaction, in characters. HQ cuts what is longer.
pub const MAX_LEDGER_TYPE_CHARS: usize = 20;

/// Most ledger instructions of one form. Each repeats the ids of its block, so that a bound on bytes alone would let a
/// small form grow a hundredfold; forms of clients have some dozens.
pub const MAX_LEDGER_INSTRUCTIONS: usize = 10_000;
