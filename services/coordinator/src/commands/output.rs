//! Output of commands that show documents: lines that may be piped, and cells of a table that a spreadsheet may open.

use std::borrow::Cow;
use std::io::{ErrorKind, Write};

use crate::failure::{Failure, Result};

/// Code of the failure by which a command learns that nobody reads on. It is the end of the command, and no fault.
pub const NOBODY_READS: &str = "C2S-0128";

/// Prints a line.
///
/// # Errors
/// See [`unwritable`].
pub(crate) fn say(line: &str) -> Result<()> {
    writeln!(std::io::stdout().lock(), "{line}").map_err(|error| unwritable(&error))
}

/// Why output could not be written: [`NOBODY_READS`], or `C2S-0106`.
pub(crate) fn unwritable(error: &std::io::Error) -> Failure {
    if error.kind() == ErrorKind::BrokenPipe {
        return Failure::new(NOBODY_READS, "nobody reads the output any more", "");
    }
    Failure::new("C2S-0106", format!("the output could not be written: {error}"), "")
}

/// As [`unwritable`], of CSV.
pub(crate) fn unwritable_csv(error: csv::Error) -> Failure {
    unwritable(&error.into())
}

/// Before texts that a spreadsheet would take for a formula.
const QUOTE: char = '\'';

fn is_formula(text: &str) -> bool {
    text.starts_with(['=', '+', '-', '@', '\t', '\r'])
}

/// A cell of CSV. A text that a spreadsheet would calculate has a quote before it; so has one that begins with a quote before
/// such a text, so that [`uncell`] gives every text back.
pub(crate) fn cell(text: &str) -> String {
    if is_formula(text.trim_start_matches(QUOTE)) {
        format!("{QUOTE}{text}")
    } else {
        text.to_owned()
    }
}

/// The text of a cell that [`cell`] has made.
pub(crate) fn uncell(cell: &str) -> &str {
    match cell.strip_prefix(QUOTE) {
        Some(text) if is_formula(text.trim_start_matches(QUOTE)) => text,
        _ => cell,
    }
}

/// A word of a command line as a shell reads it.
pub(crate) fn shell_word(text: &str) -> Cow<'_, str> {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_./:,@%+".contains(letter);
    if !text.is_empty() && text.chars().all(is_plain) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(format!("'{}'", text.replace('\'', r"'\''")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cell_is_a_formula_and_every_text_comes_back() {
        for text in [
            "=HYPERLINK(\"x\")",
            "+1",
            "-deletion_id",
            "@user_id",
            "\tx",
            "'=1",
            "''-a",
            "'a",
            "a",
            "",
            "'",
            "a=b",
        ] {
            let cell = cell(text);
            assert!(!is_formula(&cell), "{cell}");
            assert_eq!(uncell(&cell), text);
        }
        assert_eq!((cell("plain").as_str(), cell("=1").as_str()), ("plain", "'=1"));
    }

    #[test]
    fn a_shell_reads_every_text_as_one_word() {
        for (text, word) in [
            ("a/b", "a/b"),
            ("", "''"),
            ("stock state", "'stock state'"),
            ("indices/[*]", "'indices/[*]'"),
            ("it's; rm -r ~", r"'it'\''s; rm -r ~'"),
        ] {
            assert_eq!(shell_word(text), word);
        }
    }

    #[test]
    fn a_pipe_that_nobody_reads_is_the_end_and_a_full_disk_a_fault() {
        let of = |kind: ErrorKind| unwritable(&kind.into()).code;
        assert_eq!(
            (of(ErrorKind::BrokenPipe), of(ErrorKind::StorageFull)),
            (NOBODY_READS, "C2S-0106")
        );
    }
}
