//! Quoting of identifiers, once for each dialect. Values are never pasted into SQL; identifiers only through here.

/// A PostgreSQL identifier in double quotes.
pub fn quote_postgres(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A ClickHouse identifier in backquotes. ClickHouse reads backslash escapes inside them.
pub fn quote_clickhouse(name: &str) -> String {
    format!("`{}`", name.replace('\\', "\\\\").replace('`', "\\`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_inside_names_cannot_end_the_name() {
        assert_eq!(quote_postgres(r#"we"ird"#), r#""we""ird""#);
        assert_eq!(quote_clickhouse(r"we`ird\"), r"`we\`ird\\`");
    }
}
