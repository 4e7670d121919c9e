//! Reading a list.

use std::collections::BTreeSet;

use proto::ids::Domain;

use crate::failure::{Failure, Result};

/// Reads a list: a file with one domain a line (`#` begins a comment), or names with colons between.
///
/// # Errors
/// `C2S-0107` when the file cannot be read, `C2S-0108` when nothing is in the list.
pub fn read_list(argument: &str) -> Result<Vec<Domain>> {
    let names: Vec<String> = if argument.contains(':') {
        argument.split(':').map(str::to_owned).collect()
    } else {
        let text = std::fs::read_to_string(argument).map_err(|error| {
            Failure::new(
                "C2S-0107",
                format!("{argument} cannot be read: {error}"),
                "check the path",
            )
        })?;
        lines(&text)
    };
    let domains = distinct(&names);
    if domains.is_empty() {
        return Err(Failure::new(
            "C2S-0108",
            format!("{argument} names no domain"),
            "one domain a line",
        ));
    }
    Ok(domains)
}

/// The lines of a file, without comments and without the mark that some editors put at its beginning.
fn lines(text: &str) -> Vec<String> {
    text.trim_start_matches('\u{feff}')
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default().to_owned())
        .collect()
}

/// The names that are there, each once, in their order.
fn distinct(names: &[String]) -> Vec<Domain> {
    let mut seen = BTreeSet::new();
    names
        .iter()
        .map(|name| name.trim())
        .filter(|name| !name.is_empty() && seen.insert(*name))
        .map(Domain::new)
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn lists_have_comments_blank_lines_and_repetitions() {
        let text = "\u{feff}one\r\n# all of it\n\n  two  # because\n\ttwo\none\nthree";
        assert_eq!(distinct(&lines(text)), ["one", "two", "three"].map(Domain::new));
        assert_eq!(
            read_list(":one:two:one").unwrap(),
            [Domain::new("one"), Domain::new("two")]
        );
        assert_eq!(read_list("/no/such/list").unwrap_err().code, "C2S-0107");
        assert_eq!(read_list(":").unwrap_err().code, "C2S-0108");
    }
}
