//! Reads the topic ahead of the decoder, a few fetches at most.

use std::time::Duration;

use metrics::counter;
use tokio::sync::mpsc;

use super::halt::Halt;
use super::pipeline::Stop;
use super::status::Status;
use crate::config;
use crate::store::kafka::{Error, Record, Topic};

/// Records in their order, and how many more there were in the topic when they were fetched.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) records: Vec<Record>,
    pub(super) behind: i64,
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
    loop {
        match topic.fetch(offset, settings.fetch_bytes_max, settings.fetch_wait_ms_max).await {
            Ok((records, end)) => {
                if wait > first_wait {
                    tracing::info!("Kafka answers again");
                    status.set("running");
                    wait = first_wait;
                }
                if let Some(last) = records.last() {
                    offset = last.offset.saturating_add(1);
                    let behind = end.saturating_sub(offset);
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
