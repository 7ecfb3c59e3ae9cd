//! The keys of rows that are parked in `platform.dead_letters`: what they differ in is known already.

use std::collections::HashMap;

use base64::Engine as _;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::settle::Difference;
use super::source::META;
use crate::batch::aggregates::failed;
use crate::catalog::{Block, CopyReader, Placeholder, Table};
use crate::store::checkpoint::text;
use crate::store::clickhouse::ClickHouse;

/// Letters that are held at once; one has a whole message.
const PAGE: usize = 1000;

/// The parked rows of one table.
#[derive(Debug, Default)]
pub(super) struct Parked {
    /// The highest version of a letter, by the key.
    keys: HashMap<Vec<u8>, u128>,
    /// Letters that do not say their key.
    unnamed: u64,
}

#[derive(Deserialize)]
struct Letter {
    id: String,
    #[serde(with = "text")]
    version: u128,
    message: String,
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow)]
    before: Option<&'a RawValue>,
    #[serde(borrow)]
    after: Option<&'a RawValue>,
}

impl Parked {
    /// Reads them.
    pub(super) async fn read(clickhouse: &ClickHouse, table: &Table) -> anyhow::Result<Self> {
        let sql = format!(
            "select id, version, message from platform.dead_letters final \
             where table = {{table:String}} and state = 'parked' and id > {{last:String}} order by id limit {PAGE}"
        );
        let (mut parked, mut last) = (Self::default(), String::new());
        loop {
            let name = table.name().mirror_name();
            let letters: Vec<Letter> = clickhouse
                .fetch_all(&sql, &[("table", &name), ("last", &last)])
                .await
                .map_err(|error| failed("reading the parked rows", error))?;
            for letter in &letters {
                match key_of(table, letter) {
                    Some(key) => {
                        let version = parked.keys.entry(key).or_default();
                        *version = letter.version.max(*version);
                    }
                    None => parked.unnamed += 1,
                }
            }
            match letters.last() {
                Some(letter) if letters.len() == PAGE => last.clone_from(&letter.id),
                _ => return Ok(parked),
            }
        }
    }

    /// Whether the mirror lacks what a letter says. Once it has something newer the letter explains nothing.
    pub(super) fn explains(&self, difference: &Difference) -> bool {
        let newer = self.keys.get(&difference.key).is_some_and(|version| difference.version < Some(*version));
        // A letter of a row that was read again has no key; only rows that cannot be stored have one.
        newer || (!difference.storable && self.unnamed > 0)
    }
}

fn key_of(table: &Table, letter: &Letter) -> Option<Vec<u8>> {
    let mut block = Block::new(table);
    if letter.id.starts_with("load/") || letter.id.starts_with("repair/") {
        let tuple = base64::engine::general_purpose::STANDARD.decode(&letter.message).ok()?;
        block.push_key_cells(table, CopyReader::cells(&tuple), META).ok()?;
    } else {
        let event: Event<'_> = serde_json::from_str(&letter.message).ok()?;
        // No text of PostgreSQL's has this symbol.
        let placeholder = Placeholder::new("\0");
        block.push_tombstone(table, event.after.or(event.before)?, &placeholder, META).ok()?;
    }
    let mut key = Vec::new();
    block.write_key(table, 0, &mut key)?;
    Some(key)
}
