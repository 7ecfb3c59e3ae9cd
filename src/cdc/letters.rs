//! What is kept of an event that cannot be applied. Pure.

use super::envelope::{self, After, Event};
use crate::catalog::{Block, Placeholder, RowMeta, Table};
use crate::domain::Version;
use crate::store::kafka::Record;
use crate::store::mirror::{self, DeadLetter};

/// What is wrong with a row, as a word and for people.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) reason: &'static str,
    pub(super) detail: String,
}

/// The same event has the same id whenever it comes, and another topic's with the same offset another one.
pub(super) fn id(offset: i64, version: Version) -> String {
    format!("cdc/{offset}/{}", version.get())
}

/// The letter of a record.
pub(super) fn letter(table: &Table, record: &Record, version: Version, wrong: Wrong) -> DeadLetter {
    let value = record.value.as_deref().unwrap_or_default();
    DeadLetter {
        id: id(record.offset, version),
        table: table.name().mirror_name(),
        key: key(table, value).unwrap_or_default(),
        version,
        reason: wrong.reason,
        detail: wrong.detail,
        message: String::from_utf8_lossy(value).into_owned(),
    }
}

/// The row's key, if the message has it whole.
fn key(table: &Table, value: &[u8]) -> Option<String> {
    let Ok(Some(Event::Row(row))) = envelope::parse(Some(value), None) else { return None };
    let image = match row.after {
        Some(After::Raw(after)) => after,
        _ => row.before?,
    };
    // No text of PostgreSQL's has this symbol.
    let placeholder = Placeholder::new("\0");
    let meta = RowMeta { version: Version::ZERO, deleted: true, committed_at: 0, synced_at: 0 };
    let mut block = Block::new(table);
    block.push_tombstone(table, image, &placeholder, meta).ok()?;
    Some(mirror::key_json(&block, table, 0))
}

#[cfg(test)]
mod tests {
    use super::super::decoder_tests::table;
    use super::*;

    #[test]
    fn a_letter_says_the_key_in_postgresqls_own_texts() {
        let table = table("t", &[("id", "int8"), ("n", "int4")]);
        let letter_of = |value: &str| {
            let record = Record { offset: 7, key: None, value: Some(value.to_owned().into()) };
            letter(&table, &record, Version::from_raw(9), Wrong { reason: "malformed", detail: String::new() })
        };
        let source = r#""source":{"schema":"public","table":"t","sequence":"[\"1\",\"2\"]","lsn":2,"ts_us":1}"#;
        let inserted = letter_of(&format!(r#"{{"op":"c","before":null,"after":{{"id":5,"n":"x"}},{source}}}"#));
        assert_eq!((inserted.id.as_str(), inserted.key.as_str()), ("cdc/7/9", r#"["5"]"#));
        let deleted = letter_of(&format!(r#"{{"op":"d","before":{{"id":6,"n":0}},"after":null,{source}}}"#));
        assert_eq!(deleted.key, r#"["6"]"#);
        let keyless = letter_of(&format!(r#"{{"op":"c","before":null,"after":{{"n":1}},{source}}}"#));
        assert_eq!(keyless.key, "");
    }
}
