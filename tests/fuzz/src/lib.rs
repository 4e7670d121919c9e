//! Fuzzing of everything that reads what phones and people wrote: the XML reader, the readers of case blocks, ledger
//! blocks and dates, and the way back from JSON to XML (all of crate `xform`).
//!
//! ```text
//!   (seed, number) --inputs--> Input --check--> no panic, no broken rule
//!        corpus: the first numbers     \--run--> in time, within the memory bound
//! ```
//!
//! An input is a function of the seed and its number alone, so that any of them can be made again: after a crash that
//! took the process with it, too.
//!
//! * [`corpus`]: ordinary forms, and the classic attacks on readers of XML;
//! * [`inputs`]: which input a number stands for; `forms`, `mutations` and `json` make them;
//! * [`check`]: what must hold for any input;
//! * [`run`]: runs them one after the other, watching time and memory.

pub mod check;
pub mod corpus;
mod forms;
pub mod inputs;
mod json;
mod mutations;
pub mod run;

use peak_alloc::PeakAlloc;

/// Counts every allocation of the process. A block that grows counts twice while it moves.
#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// What a call returns, and the most bytes that were allocated during it beyond those before it.
pub fn measured<T>(call: impl FnOnce() -> T) -> (T, usize) {
    MEMORY.reset_peak_usage();
    let before = MEMORY.current_usage();
    let value = call();
    (value, MEMORY.peak_usage().saturating_sub(before))
}
