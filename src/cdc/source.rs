//! Reads the topic ahead of the decoder, a few fetches at most.

use std::time::Duration;

use metrics::{counter, gauge};
use tokio::sync::mpsc;

use super::batch::record_hash;
use super::halt::Halt;
use super::pipeline::Stop;
use super::status::Status;
use crate::config::{self, Settings};
use crate::store::checkpoint::Checkpoint;
use crate::store::kafka::{Error, Record, Topic};

/// Records in their order, and how many more there were in the topic when they were fetched.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) records: Vec<Record>,
    pub(super) behind: i64,
}

/// Opens the topic and proves that it is the one that was read before.
pub(super) async fn open(settings: &Settings, checkpoint: &Checkpoint) -> Result<Topic, Stop> {
    let stop = |error: Error| match error {
        Error::OffsetOutOfRange(offset) => Stop::Halt(Halt::OffsetOutOfRange(offset)),
        Error::Partitions(..) | Error::Unreadable(_) => Stop::Halt(Halt::Topic(error.to_string())),
        Error::NoTopic(_) | Error::Unavailable(_) => Stop::Again(error.into()),
    };
    let mut topic = Topic::new(&settings.kafka, &settings.sink.topic).map_err(Stop::Again)?;
    let (first, end) = topic.bounds().await.map_err(stop)?;
    if checkpoint.next_offset < first || checkpoint.next_offset > end {
        return Err(Stop::Halt(Halt::OffsetOutOfRange(checkpoint.next_offset)));
    }
    if !checkpoint.record_hash.is_empty() {
        let last = checkpoint.next_offset - 1;
        let found =
            if last < first { None } else { record_at(&settings.sink, &mut topic, last).await.map_err(stop)? };
        if found.is_none_or(|record| record_hash(&record) != checkpoint.record_hash) {
            return Err(Stop::Halt(Halt::TopicRecreated(checkpoint.next_offset)));
        }
    }
    Ok(topic)
}

async fn record_at(sink: &config::Sink, topic: &mut Topic, offset: i64) -> Result<Option<Record>, Error> {
    let (records, _) = topic.fetch(offset, sink.fetch_bytes_max, sink.fetch_wait_ms_max).await?;
    Ok(records.into_iter().find(|record| record.offset == offset))
}

/// Whether the record before `offset` is the one with this hash; nothing is known before the first one.
async fn is_same(sink: &config::Sink, topic: &mut Topic, offset: i64, hash: Option<&str>) -> Result<bool, Error> {
    let Some(hash) = hash else { return Ok(true) };
    let last = record_at(sink, topic, offset.saturating_sub(1)).await?;
    Ok(last.is_some_and(|record| record_hash(&record) == hash))
}

/// Fetches from `offset` on until the receiver is gone or the log cannot be followed.
pub(super) async fn run(
    mut topic: Topic,
    settings: config::Sink,
    mut offset: i64,
    out: mpsc::Sender<Fetched>,
    status: Status,
) -> Stop {
    let first_wait = Duration::from_millis(settings.retry_wait_ms_min.max(1));
    let mut wait = first_wait;
    let mut last_hash: Option<String> = None;
    loop {
        match topic.fetch(offset, settings.fetch_bytes_max, settings.fetch_wait_ms_max).await {
            Ok((records, end)) => {
                if wait > first_wait {
                    // While nobody looked, the topic may have been made anew and filled beyond this offset.
                    match is_same(&settings, &mut topic, offset, last_hash.as_deref()).await {
                        Ok(true) => {}
                        Ok(false) => return Stop::Halt(Halt::TopicRecreated(offset)),
                        Err(error) => return Stop::Again(error.into()),
                    }
                    tracing::info!("Kafka answers again");
                    status.set("running");
                    wait = first_wait;
                }
                if let Some(last) = records.last() {
                    failpoint!("sink.fetched");
                    last_hash = Some(record_hash(last));
                    offset = last.offset.saturating_add(1);
                    let behind = end.saturating_sub(offset);
                    #[expect(clippy::cast_precision_loss, reason = "metrics are floats")]
                    gauge!("platform_sink_lag_events").set(behind as f64);
                    if out.send(Fetched { records, behind }).await.is_err() {
                        return Stop::Cancelled;
                    }
                } else if end < offset {
                    return Stop::Halt(Halt::OffsetOutOfRange(offset));
                } else if end > offset {
                    // Nothing comes although there is something: without this wait it would be asked for at once again.
                    tokio::time::sleep(first_wait).await;
                }
                if out.is_closed() {
                    return Stop::Cancelled;
                }
            }
            Err(Error::OffsetOutOfRange(offset)) => return Stop::Halt(Halt::OffsetOutOfRange(offset)),
            Err(error @ (Error::Partitions(..) | Error::Unreadable(_))) => {
                return Stop::Halt(Halt::Topic(error.to_string()));
            }
            Err(error @ (Error::NoTopic(_) | Error::Unavailable(_))) => {
                counter!("platform_sink_retries_total", "step" => "fetch").increment(1);
                if wait == first_wait {
                    tracing::warn!(error = %error, "Kafka is not ready, the fetch is repeated");
                    status.waiting(error.to_string());
                }
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = out.closed() => return Stop::Cancelled,
                }
                wait = (wait * 2).min(Duration::from_millis(settings.retry_wait_ms_max));
            }
        }
    }
}
