//! What stands in braces in an endpoint's SELECT: `{name:Type}` for a parameter, `{rows}` for the rows of the header's range.

use std::ops::Range;

/// Stands in a SELECT for the rows of its range.
const ROWS: &str = "rows";

/// The braces of one line of SQL outside of strings and comments: where they are, and what is in them. None spans lines.
fn braces(line: &str) -> Vec<(Range<usize>, &str)> {
    let mut found = Vec::new();
    let (mut at, mut in_string) = (0, false);
    while let Some(next) = line.get(at..).and_then(|rest| rest.find(['\'', '{', '-'])) {
        let start = at + next;
        let rest = line.get(start..).unwrap_or_default();
        at = start + 1;
        if rest.starts_with('\'') {
            in_string = !in_string;
        } else if !in_string && rest.starts_with("--") {
            break;
        } else if !in_string && rest.starts_with('{') {
            let Some((inside, _)) = rest.get(1..).unwrap_or_default().split_once('}') else { break };
            at = start + inside.len() + 2;
            found.push((start..at, inside.trim()));
        }
    }
    found
}

/// The `{name:Type}` of a line.
pub(super) fn placeholders(line: &str) -> Vec<(&str, &str)> {
    let parts = braces(line).into_iter().filter_map(|(_, inside)| inside.split_once(':'));
    parts.map(|(name, kind)| (name.trim(), kind.trim())).collect()
}

/// Whether a line reads `{rows}`.
pub(super) fn reads_rows(line: &str) -> bool {
    braces(line).iter().any(|(_, inside)| *inside == ROWS)
}

/// The SELECT with `rows`, which is one line, in place of each `{rows}`: every line stays the line that it is.
pub(super) fn with_rows(sql: &str, rows: &str) -> String {
    let line = |line: &str| {
        let mut line = line.to_owned();
        // From the end, so that what comes before stays where it is.
        for (place, _) in braces(&line.clone()).into_iter().rev().filter(|(_, inside)| *inside == ROWS) {
            line.replace_range(place, rows);
        }
        line
    };
    sql.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_braces_that_are_sql_count() {
        let line = "select '{rows}', {a:UInt32}, 'it''s {b:String}', { rows } -- {rows} {c:String}";
        assert_eq!(placeholders(line), [("a", "UInt32")]);
        assert!(reads_rows(line) && !reads_rows("select '{rows}' -- {rows}") && !reads_rows("{rows:String}"));
        assert_eq!(
            with_rows(&format!("{line}\nfrom {{rows}} as a, {{rows}} as b"), "(x)"),
            "select '{rows}', {a:UInt32}, 'it''s {b:String}', (x) -- {rows} {c:String}\nfrom (x) as a, (x) as b"
        );
        assert_eq!(with_rows("select 'ä{', 1 - 1 - {rows", "(x)"), "select 'ä{', 1 - 1 - {rows");
    }
}
