//! Parked rows, tried again as a batch of their own: under their old versions, so that whatever is newer wins, and only above
//! the table's floor. An event is decoded with the shapes of now; a row without an event, or whose event still cannot be
//! stored, is read again from PostgreSQL by its key.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use tokio_postgres::Client;

use super::adapters::wait_for_flush;
use super::batch::Batch;
use super::decoder::{Decoder, Known, Outcome as Decoded};
use super::desk::Desk;
use super::pipeline::Stop;
use super::writer::Writer;
use super::{letters, shapes};
use crate::catalog::{Block, RowMeta, Table};
use crate::domain::{Failure, Lsn, Version};
use crate::store::checkpoint;
use crate::store::dead_letters::{self, Letter, Selection};
use crate::store::dirty_buckets;
use crate::store::kafka::Record;
use crate::store::mirror::Log;
use crate::store::replication::LogIdentity;
use crate::store::requests::Outcome;
use crate::store::{connector_config, postgres, rows_by_key};

/// Letters of one batch; each may hold a whole message.
const PAGE: u32 = 100;
/// Bits of a version below the log's number.
const LOG_SHIFT: u32 = 112;

/// What became of letters.
#[derive(Debug, Default)]
struct Counts {
    replayed: usize,
    superseded: usize,
    parked: usize,
    /// What is wrong with the first of those that stay.
    first: Option<String>,
}

/// Tries letters again.
///
/// # Errors
/// `Failure::Config` before the first load; else those of the stores. What was done before stays done.
pub(super) async fn replay(desk: &Desk, client: &Client, chosen: &Selection, by: &str) -> anyhow::Result<Outcome> {
    let not_loaded = || Failure::Config("nothing was loaded yet; run `platform load`".into());
    let at = checkpoint::latest(&desk.clickhouse, desk.pipeline()).await?.ok_or_else(not_loaded)?;
    let placeholder = connector_config::placeholder(client, desk.pipeline()).await?;
    let mut decoder = decoder_of(0, &placeholder);
    shapes::refresh(&desk.settings, &desk.clickhouse, &desk.status, &mut decoder, &BTreeSet::new()).await?;
    let mut replay = Replay {
        desk,
        placeholder,
        tables: decoder.tables.into_values().filter_map(mirrored).collect(),
        writer: desk.writer(&at, at.log, &desk.cancelled),
    };
    let (mut counts, mut last) = (Counts::default(), String::new());
    loop {
        let page = dead_letters::parked(&desk.clickhouse, desk.pipeline(), chosen, &last, PAGE).await?;
        let Some(end) = page.last() else { break };
        last.clone_from(&end.id);
        replay.page(&page, by, &mut counts).await?;
    }
    Ok(outcome(&counts))
}

/// Gives letters up.
///
/// # Errors
/// ClickHouse's.
pub(super) async fn discard(desk: &Desk, chosen: &Selection, by: &str) -> anyhow::Result<Outcome> {
    let mut dropped = 0;
    loop {
        let page = dead_letters::parked(&desk.clickhouse, desk.pipeline(), chosen, "", PAGE).await?;
        let ids: Vec<&str> = page.iter().map(|letter| letter.id.as_str()).collect();
        if ids.is_empty() {
            break;
        }
        dead_letters::close(&desk.clickhouse, &ids, "dropped", by).await?;
        dropped += ids.len();
    }
    let (status, code) = if dropped == 0 { ("unchanged", 99) } else { ("done", 0) };
    Ok(Outcome::new(status, code, format!("{dropped} letters dropped")).with("dropped", dropped))
}

fn outcome(counts: &Counts) -> Outcome {
    let Counts { replayed, superseded, parked, first } = counts;
    let (status, code) = match (replayed + superseded, parked) {
        (0, 0) => ("unchanged", 99),
        (_, 0) => ("done", 0),
        _ => ("incomplete", 65),
    };
    let mut detail =
        format!("{replayed} replayed, {superseded} superseded by newer loads or TRUNCATE, {parked} stay parked");
    if let Some(first) = first {
        detail.push_str(": ");
        detail.push_str(first);
    }
    Outcome::new(status, code, detail)
        .with("replayed", *replayed)
        .with("superseded", *superseded)
        .with("still_parked", *parked)
}

fn mirrored(known: Known) -> Option<(String, (Arc<Table>, Version))> {
    match known {
        Known::Mirrored(table, floor) => Some((table.name().mirror_name(), (table, floor))),
        Known::Skipped => None,
    }
}

/// A decoder of events of log `number`, which were all judged when they came.
fn decoder_of(number: u16, placeholder: &str) -> Decoder {
    let identity = LogIdentity { system_identifier: String::new(), timeline: 0 };
    Decoder::new(Log { number, identity, first_load: Lsn::new(u64::MAX) }, placeholder, Arc::default())
}

/// What is known of a letter while its page is tried.
enum Verdict {
    /// Its row is in the batch.
    Stored,
    /// Its table is emptied or loaded since.
    Superseded,
    /// It cannot be applied.
    Parked(String),
}

struct Replay<'a> {
    desk: &'a Desk,
    placeholder: String,
    /// By their names in ClickHouse, with their floors.
    tables: HashMap<String, (Arc<Table>, Version)>,
    writer: Writer,
}

impl Replay<'_> {
    async fn page(&mut self, page: &[Letter], by: &str, counts: &mut Counts) -> anyhow::Result<()> {
        let mut batch = Batch::at(0, Lsn::ZERO, -1, 0, String::new());
        let mut verdicts: Vec<Option<Verdict>> = Vec::with_capacity(page.len());
        for (number, letter) in page.iter().enumerate() {
            verdicts.push(self.judge(&mut batch, number, letter));
        }
        self.writer.complete(&mut batch).await.map_err(Stop::into_failure)?;
        // Rows that lacked values which are nowhere; they are known by the places that their events were given.
        let places: HashMap<String, usize> = page.iter().enumerate().filter_map(place).collect();
        for unresolved in batch.letters.drain(..) {
            if let Some(verdict) = places.get(&unresolved.id).and_then(|number| verdicts.get_mut(*number)) {
                *verdict = Some(Verdict::Parked(unresolved.detail));
            }
        }
        self.reread(&mut batch, page, &mut verdicts).await?;
        if batch.rows() > 0 {
            let number = self.number(&batch).await?;
            self.writer.insert(&batch, number).await.map_err(Stop::into_failure)?;
        }
        self.close(page, &verdicts, by, counts).await
    }

    /// A number that no build of the batch's tables has reached.
    async fn number(&self, batch: &Batch) -> anyhow::Result<u64> {
        let mut number = 0;
        for aggregate in batch.tables.keys().flat_map(|table| self.desk.buckets.names(table)) {
            let next = dirty_buckets::next_number(&self.desk.clickhouse, self.desk.pipeline(), aggregate).await?;
            number = next.max(number);
        }
        Ok(number)
    }

    /// Puts the letter's event into the batch; `None` when its row must be read again.
    fn judge(&self, batch: &mut Batch, number: usize, letter: &Letter) -> Option<Verdict> {
        let Some((table, floor)) = self.tables.get(&letter.table) else {
            let text = format!("its table is not mirrored now; run `platform load {}`", letter.table);
            return Some(Verdict::Parked(text));
        };
        if letter.version < floor.get() {
            return Some(Verdict::Superseded);
        }
        let message = letter.message.as_deref().filter(|message| letter.id.starts_with("cdc/") && !message.is_empty());
        let Some(message) = message else {
            let known = !letter.key.is_empty();
            let text = || format!("neither its event nor its key is known; run `platform load {}`", letter.table);
            return (!known).then(|| Verdict::Parked(text()));
        };
        let record = Record { offset: i64::try_from(number).ok()?, key: None, value: Some(message.to_owned().into()) };
        self.decode(batch, table, &record, letter)
    }

    fn decode(&self, batch: &mut Batch, table: &Arc<Table>, record: &Record, letter: &Letter) -> Option<Verdict> {
        let log = u16::try_from(letter.version >> LOG_SHIFT).unwrap_or_default();
        let mut decoder = decoder_of(log, &self.placeholder);
        decoder.tables.insert(table.name().clone(), Known::Mirrored(Arc::clone(table), Version::ZERO));
        let entry = batch.table(table);
        let (rows, deferred) = (entry.block.rows(), entry.deferred.len());
        let now = chrono::Utc::now().timestamp_micros();
        match decoder.apply(batch, record, true, now) {
            Err(halt) => return Some(Verdict::Parked(halt.to_string())),
            Ok(Decoded::Refresh(_)) => return Some(Verdict::Parked("its event does not fit the table".into())),
            Ok(Decoded::Applied) => {}
        }
        if let Some(parked) = batch.letters.pop() {
            // The row may have been mended since. What the configuration says to park stays parked.
            let may_be_read = parked.reason != "inexact" && !letter.key.is_empty();
            return (!may_be_read).then_some(Verdict::Parked(parked.detail));
        }
        let entry = batch.table(table);
        // What lies between two letters is not here: none lends values to another.
        entry.forget_newest();
        let version = match entry.deferred.get(deferred) {
            Some(deferred) => Some(deferred.meta.version),
            None => entry.block.version_of(rows).map(|(version, _)| version),
        };
        if version.map(Version::get) == Some(letter.version) {
            return Some(Verdict::Stored);
        }
        entry.block.truncate(rows);
        entry.deferred.truncate(deferred);
        Some(Verdict::Parked("its event is not that of its version".into()))
    }

    /// Rows that have no verdict yet, read again by their keys.
    async fn reread(&self, batch: &mut Batch, page: &[Letter], verdicts: &mut [Option<Verdict>]) -> anyhow::Result<()> {
        let mut open: BTreeMap<&str, Vec<(usize, Vec<String>)>> = BTreeMap::new();
        for (number, (letter, verdict)) in page.iter().zip(verdicts.iter_mut()).enumerate() {
            if verdict.is_none() {
                match serde_json::from_str(&letter.key) {
                    Ok(key) => open.entry(&letter.table).or_default().push((number, key)),
                    Err(_) => *verdict = Some(Verdict::Parked("its key cannot be read".into())),
                }
            }
        }
        if open.is_empty() {
            return Ok(());
        }
        let client = postgres::connect(&self.desk.settings.postgres, "platform sink").await?;
        for (name, wanted) in open {
            let Some((table, _)) = self.tables.get(name) else { continue };
            let (keys, wrong): (Vec<_>, Vec<_>) =
                wanted.into_iter().partition(|(_, key)| key.len() == table.key_columns().count());
            let mut judged: Vec<(usize, Verdict)> = wrong
                .into_iter()
                .map(|(number, _)| (number, Verdict::Parked("its table has another key now".into())))
                .collect();
            judged.extend(read_again(&client, batch, table, page, keys).await?);
            for (number, verdict) in judged {
                if let Some(slot) = verdicts.get_mut(number) {
                    *slot = Some(verdict);
                }
            }
        }
        Ok(())
    }

    async fn close(
        &self,
        page: &[Letter],
        verdicts: &[Option<Verdict>],
        by: &str,
        counts: &mut Counts,
    ) -> anyhow::Result<()> {
        let (mut replayed, mut superseded, mut parked) = (Vec::new(), Vec::new(), BTreeMap::new());
        for (letter, verdict) in page.iter().zip(verdicts) {
            match verdict {
                Some(Verdict::Stored) => replayed.push(letter.id.as_str()),
                Some(Verdict::Superseded) => superseded.push(letter.id.as_str()),
                Some(Verdict::Parked(why)) => drop(parked.insert(letter.id.as_str(), why.as_str())),
                None => drop(parked.insert(letter.id.as_str(), "it was not tried")),
            }
        }
        let clickhouse = &self.desk.clickhouse;
        dead_letters::close(clickhouse, &replayed, "replayed", by).await?;
        dead_letters::close(clickhouse, &superseded, "superseded", by).await?;
        dead_letters::note(clickhouse, &parked).await?;
        counts.replayed += replayed.len();
        counts.superseded += superseded.len();
        counts.parked += parked.len();
        if counts.first.is_none() {
            counts.first = parked.values().next().map(|why| (*why).to_owned());
        }
        Ok(())
    }
}

/// The id that an unresolved row of this letter comes back with.
fn place((number, letter): (usize, &Letter)) -> Option<(String, usize)> {
    Some((letters::id(i64::try_from(number).ok()?, Version::from_raw(letter.version)), number))
}

/// The rows with these keys as they are now, each under its letter's version. A row that is gone since says nothing: its
/// delete is a later event.
async fn read_again(
    client: &Client,
    batch: &mut Batch,
    table: &Arc<Table>,
    page: &[Letter],
    wanted: Vec<(usize, Vec<String>)>,
) -> anyhow::Result<Vec<(usize, Verdict)>> {
    let keys: Vec<Vec<String>> = wanted.iter().map(|(_, key)| key.clone()).collect();
    let read = async {
        let rows = rows_by_key::read(client, table, &keys).await?;
        wait_for_flush(client).await?;
        anyhow::Ok(rows)
    };
    let rows = read.await?;
    let now = chrono::Utc::now().timestamp_micros();
    let meta = |version| RowMeta { version, deleted: false, committed_at: now, synced_at: now };
    let mut found = HashMap::new();
    for row in &rows {
        let cells = rows_by_key::cells(row)?;
        let mut key = Block::new(table);
        key.push_key_cells(table, cells.iter().copied(), meta(Version::ZERO))?;
        if let Some(texts) = key.key_texts(table, 0) {
            found.insert(texts, cells);
        }
    }
    let block = &mut batch.table(table).block;
    let judged = wanted.into_iter().map(|(number, key)| {
        let version = page.get(number).map(|letter| Version::from_raw(letter.version)).unwrap_or_default();
        let stored =
            found.get(&key).map_or(Ok(()), |cells| block.push_cells(table, cells.iter().copied(), meta(version)));
        (number, stored.map_or_else(|error| Verdict::Parked(error.to_string()), |()| Verdict::Stored))
    });
    Ok(judged.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_parked_decides_the_exit_code() {
        let of = |replayed, superseded, parked| {
            let first = (parked > 0).then(|| "column a: no".to_owned());
            let outcome = outcome(&Counts { replayed, superseded, parked, first });
            (outcome.exit_code, outcome.status)
        };
        assert_eq!(of(0, 0, 0), (99, "unchanged".into()));
        assert_eq!(of(2, 0, 0), (0, "done".into()));
        assert_eq!(of(0, 1, 0), (0, "done".into()));
        assert_eq!(of(5, 0, 1), (65, "incomplete".into()));
    }
}
