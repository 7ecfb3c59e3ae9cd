//! Goes back in the topic: the checkpoint is moved to an earlier record, and everything behind it is applied again. That is
//! right at any time, because a version is a pure function of its event: what is there already wins or is the same.

use super::batch::record_hash;
use super::desk::Desk;
use super::envelope::{self, Event};
use super::pipeline::Stop;
use super::source;
use crate::domain::{Failure, Lsn, RewindTo};
use crate::store::checkpoint::{self, Checkpoint};
use crate::store::dirty_buckets;
use crate::store::kafka::{self, Record, Topic};
use crate::store::mirror;
use crate::store::requests::Outcome;
use crate::store::table_states;

/// Records that are gone through one by one once the place is known that well.
const NEAR: i64 = 2000;
/// Bytes fetched to look at one record, and to go through several.
const PROBE_BYTES: i32 = 64 << 10;
const SCAN_BYTES: i32 = 4 << 20;
/// How long the broker may hold such a fetch, milliseconds.
const WAIT_MS: i32 = 10;
/// Commit times may be this much out of order, microseconds: concurrent transactions take theirs before they are in the log.
const DISORDER_US: i64 = 1_000_000;

/// Moves the checkpoint back to `to`.
///
/// # Errors
/// `Failure::Usage` when that is forward, or before what can be read again; `Failure::Config` before the first load, and
/// when the topic is not the one that was applied.
pub(super) async fn rewind(desk: &Desk, to: RewindTo) -> anyhow::Result<Outcome> {
    let pipeline = desk.pipeline();
    let not_loaded = || Failure::Config("nothing was loaded yet; run `platform load`".into());
    let latest = checkpoint::latest(&desk.clickhouse, pipeline).await?.ok_or_else(not_loaded)?;
    let log = mirror::newest_log(&desk.clickhouse).await?.ok_or_else(not_loaded)?;
    let start = checkpoint::start(&desk.clickhouse, pipeline).await?;
    let other_log = latest.log != log.number || start.as_ref().is_some_and(|start| start.log != log.number);
    if other_log || (start.is_none() && log.number > 1) {
        let text = "the checkpoint is of another log than the mirror; run `platform load`";
        return Err(Failure::Config(text.into()).into());
    }
    // Proves that it still is the topic that was applied: in another one an earlier place would hide a hole.
    let mut topic = source::open(&desk.settings, &latest).await.map_err(Stop::into_failure)?;
    let (first, _) = topic.bounds().await?;
    let bounds = Bounds { first, start: start.map_or(0, |start| start.offset), next: latest.next_offset };
    let offset = match to {
        RewindTo::Offset(offset) => offset,
        RewindTo::Lsn(lsn) => offset_of_lsn(&mut topic, &bounds, &latest, lsn).await?,
        RewindTo::Time(time) => offset_of_time(&mut topic, &bounds, &latest, time).await?,
    };
    bounds.check(offset)?;
    let describe = |outcome: Outcome| outcome.with("from_offset", latest.next_offset).with("next_offset", offset);
    if offset == latest.next_offset {
        return Ok(describe(Outcome::new("unchanged", 0, format!("the sink stands at offset {offset} already"))));
    }
    let hash = if offset > first { hash_at(&mut topic, offset - 1).await? } else { String::new() };
    let moved = Checkpoint {
        // Two above: a sink that has halted may have run in the term above without writing in it.
        term: latest.term + 2,
        // Numbers of batches are places in the log: what is applied again has the numbers that it had.
        batch: latest.batch.saturating_sub(u64::try_from(latest.next_offset - offset).unwrap_or_default()),
        next_offset: offset,
        record_hash: hash,
        // The heartbeat and the watermark stay: lower beats are redelivery, and everything below is in the mirror.
        ..latest.clone()
    };
    // What is applied again may have been parked, or damaged: until the sink has passed it, nothing that is built is fresh.
    let tables = table_states::of_pipeline(&desk.clickhouse, pipeline).await?;
    for (_, aggregate) in desk.buckets.all().filter(|(table, _)| tables.contains_key(&table.mirror_name())) {
        let number = dirty_buckets::next_number(&desk.clickhouse, pipeline, aggregate).await?;
        dirty_buckets::mark_whole(&desk.clickhouse, aggregate, number).await?;
    }
    checkpoint::store(&desk.clickhouse, pipeline, &moved).await?;
    let again = latest.next_offset - offset;
    Ok(describe(Outcome::new("done", 0, format!("{again} records are applied again, from offset {offset} on"))))
}

/// What may be read again.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    /// The first offset that is in the topic.
    first: i64,
    /// Where the last load has moved the checkpoint.
    start: i64,
    /// The first offset that is not applied.
    next: i64,
}

impl Bounds {
    /// The first offset that may be gone back to.
    fn lowest(&self) -> i64 {
        self.first.max(self.start)
    }

    fn check(&self, offset: i64) -> Result<(), Failure> {
        let Self { first, start, next } = self;
        let text = if offset > *next {
            format!("offset {offset} is ahead of offset {next}, where the sink stands: it would skip changes")
        } else if offset < *first {
            format!("offset {offset} is not in the topic any more, which begins at offset {first}")
        } else if offset < *start {
            format!(
                "offset {offset} is before offset {start}, behind which the last load let the sink go on: what lies before cannot be followed"
            )
        } else {
            return Ok(());
        };
        Err(Failure::Usage(text))
    }

    fn refuse_before(&self, what: &impl std::fmt::Display) -> Failure {
        let lowest = self.lowest();
        Failure::Usage(format!("what can be read again begins at offset {lowest}, which is after {what}"))
    }
}

/// Where the transaction begins that was the first to commit at or behind `lsn`.
async fn offset_of_lsn(topic: &mut Topic, bounds: &Bounds, latest: &Checkpoint, lsn: Lsn) -> anyhow::Result<i64> {
    if lsn > latest.watermark {
        let text = format!(
            "{lsn} is ahead of {} (offset {}), where the sink stands: it would skip changes",
            latest.watermark, bounds.next
        );
        return Err(Failure::Usage(text).into());
    }
    // An event knows the end of the commit before its own. So the first event that knows a commit behind `lsn` comes after
    // the transaction in question, and what the event before it knows is what all events of that transaction know.
    // A commit that ended exactly at `lsn` lies before it.
    let behind = Lsn::new(lsn.get().saturating_add(1));
    let found = first_reached(topic, bounds, Goal::Commit(behind)).await?;
    let own = found.before.ok_or_else(|| bounds.refuse_before(&lsn))?;
    let begin = first_reached(topic, bounds, Goal::Commit(own)).await?;
    // The first events of a topic that was cut may be the end of their transaction.
    if begin.before.is_none() && bounds.first > bounds.start {
        return Err(bounds.refuse_before(&lsn).into());
    }
    Ok(begin.offset.ok_or_else(|| bounds.refuse_before(&lsn))?)
}

/// The first event that was committed at or after `time`.
async fn offset_of_time(
    topic: &mut Topic,
    bounds: &Bounds,
    latest: &Checkpoint,
    time: chrono::DateTime<chrono::Utc>,
) -> anyhow::Result<i64> {
    let found = first_reached(topic, bounds, Goal::Time(time.timestamp_micros())).await?;
    let Some(offset) = found.offset else {
        let text = format!(
            "{time} is after {}, the commit time of what was applied last (offset {}): it would skip changes",
            latest.committed_at, bounds.next
        );
        return Err(Failure::Usage(text).into());
    };
    if found.before.is_none() {
        return Err(bounds.refuse_before(&time).into());
    }
    Ok(offset)
}

/// What is looked for.
#[derive(Debug, Clone, Copy)]
enum Goal {
    /// An event that knows a commit that ended here or later.
    Commit(Lsn),
    /// An event that was committed then or later, microseconds since 1970.
    Time(i64),
}

/// What an event says of its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    last_commit: Lsn,
    committed_at: Option<i64>,
}

impl Place {
    /// Of a record; `None` when it says nothing: a tombstone, Debezium's own heartbeat, a row of a snapshot.
    fn of(record: &Record) -> Option<Self> {
        let (position, committed_at) = match envelope::parse(record.value.as_deref(), None) {
            Ok(Some(Event::Row(row))) => (row.position, Some(row.committed_at)),
            Ok(Some(Event::Message { position, .. } | Event::Truncate { position, .. })) => (position, None),
            _ => return None,
        };
        Some(Self { last_commit: position.last_commit?, committed_at })
    }

    fn reaches(&self, goal: Goal) -> Option<bool> {
        match goal {
            Goal::Commit(lsn) => Some(self.last_commit >= lsn),
            Goal::Time(time) => Some(self.committed_at? >= time),
        }
    }
}

/// Where a goal is reached first, and what the event before knows. `offset` is `None` when what was applied does not reach it,
/// `before` when nothing lies before.
#[derive(Debug, Default)]
struct Reached {
    offset: Option<i64>,
    before: Option<Lsn>,
}

/// The first record behind one that is before the goal. As the connector leaves nothing out, everything that reaches the goal
/// comes after a record that does not: also when it has sent a part of the log twice.
async fn first_reached(topic: &mut Topic, bounds: &Bounds, goal: Goal) -> Result<Reached, kafka::Error> {
    let near = match goal {
        Goal::Time(time) => Goal::Time(time.saturating_sub(DISORDER_US)),
        commit @ Goal::Commit(_) => commit,
    };
    let (mut low, mut high) = (bounds.lowest(), bounds.next);
    while high - low > NEAR {
        let middle = low + (high - low) / 2;
        match next_place(topic, middle, high, near).await? {
            Some((offset, false)) => low = offset.max(low + 1),
            Some((_, true)) | None => high = middle,
        }
    }
    let (mut reached, mut offset) = (Reached::default(), low);
    while offset < bounds.next {
        let (records, _) = topic.fetch(offset, SCAN_BYTES, WAIT_MS).await?;
        for record in records.iter().take_while(|record| record.offset < bounds.next) {
            let Some(place) = Place::of(record) else { continue };
            match place.reaches(goal) {
                Some(true) => return Ok(Reached { offset: Some(record.offset), ..reached }),
                Some(false) => reached.before = Some(place.last_commit),
                None => {}
            }
        }
        offset = after(&records, offset)?;
    }
    Ok(reached)
}

/// The first record from `offset` on that says whether it reaches the goal, and whether it does.
async fn next_place(
    topic: &mut Topic,
    mut offset: i64,
    end: i64,
    goal: Goal,
) -> Result<Option<(i64, bool)>, kafka::Error> {
    while offset < end {
        let (records, _) = topic.fetch(offset, PROBE_BYTES, WAIT_MS).await?;
        let inside = records.iter().take_while(|record| record.offset < end);
        let mut places = inside.filter_map(|record| Some((record.offset, Place::of(record)?.reaches(goal)?)));
        if let Some(found) = places.next() {
            return Ok(Some(found));
        }
        offset = after(&records, offset)?;
    }
    Ok(None)
}

fn after(records: &[Record], offset: i64) -> Result<i64, kafka::Error> {
    let last = records.last().map(|record| record.offset.saturating_add(1));
    last.ok_or_else(|| kafka::Error::Unavailable(format!("no record came from offset {offset} on")))
}

async fn hash_at(topic: &mut Topic, offset: i64) -> Result<String, kafka::Error> {
    let (records, _) = topic.fetch(offset, PROBE_BYTES, WAIT_MS).await?;
    let record = records.iter().find(|record| record.offset == offset);
    record.map(record_hash).ok_or(kafka::Error::OffsetOutOfRange(offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_gone_back_to_is_refused_with_its_reason() {
        let bounds = Bounds { first: 10, start: 20, next: 30 };
        let text = |offset| bounds.check(offset).map_err(|failure| (failure.exit_code(), failure.to_string()));
        assert_eq!((text(20), text(30)), (Ok(()), Ok(())));
        let refused = |offset| text(offset).expect_err("refused");
        assert!(refused(31).0 == 2 && refused(31).1.contains("ahead of offset 30"));
        assert!(refused(9).1.contains("begins at offset 10"));
        assert!(refused(19).1.contains("before offset 20"));
    }

    #[test]
    fn a_record_tells_its_place_or_nothing() {
        let record = |value: &str| Record { offset: 1, key: None, value: Some(value.to_owned().into()) };
        let source = r#""source":{"schema":"public","table":"t","sequence":"[\"16\",\"20\"]","lsn":20,"ts_us":5}"#;
        let place = Place::of(&record(&format!(r#"{{"op":"c","after":{{"id":1}},{source}}}"#))).expect("a place");
        assert_eq!(place, Place { last_commit: Lsn::new(16), committed_at: Some(5) });
        let reaches = |goal| place.reaches(goal);
        assert_eq!(
            [reaches(Goal::Commit(Lsn::new(16))), reaches(Goal::Commit(Lsn::new(17)))],
            [Some(true), Some(false)]
        );
        assert_eq!([reaches(Goal::Time(5)), reaches(Goal::Time(6))], [Some(true), Some(false)]);
        assert_eq!(Place::of(&record(r#"{"ts_ms":1}"#)), None);
    }
}
