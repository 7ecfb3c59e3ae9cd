//! Kafka: one topic with one partition, read by offset. Records come over a connection of their own (`kafka_fetch`);
//! everything else goes through rskafka and around its defects.
//!
//! rskafka 0.6 has no timeouts and keeps a dead connection: every call here has a limit, and after any failure the client
//! is built anew. Asking it for a topic that does not exist would create one, so topics are listed first. Only explicit
//! offsets are read: `Earliest` and `Latest` would silently jump over a hole.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use rskafka::BackoffConfig;
use rskafka::client::error::{Error as DriverError, ProtocolError};
use rskafka::client::partition::{OffsetAt, PartitionClient, UnknownTopicHandling};
use rskafka::client::{Client, ClientBuilder};

use super::buffers::Buffers;
use super::kafka_fetch::{Ask, Fetcher};
use super::record_batch;
use crate::config;
use crate::domain::Failure;

/// The one partition of a pipeline's topic.
const PARTITION: i32 = 0;
/// Unpacked batches whose memory is kept for the next ones, and its largest piece: what the connector's producer packs at
/// once is 256 KiB.
const UNPACKED_KEPT: usize = 128;
const UNPACKED_BYTES: usize = 1 << 20;

/// A record as it lies in the topic.
#[derive(Debug, Clone)]
pub struct Record {
    /// Its offset.
    pub offset: i64,
    /// Its key.
    pub key: Option<Bytes>,
    /// Its value; `None` for a tombstone of the topic. It shares the memory of its whole batch.
    pub value: Option<Bytes>,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The offset is not in the topic any more, or not yet: continuity is broken.
    #[error("offset {0} is not in the topic")]
    OffsetOutOfRange(i64),
    /// The topic does not exist.
    #[error("the topic {0} does not exist")]
    NoTopic(String),
    /// The topic has not exactly one partition, so it has no total order.
    #[error("the topic {0} has {1} partitions, not one")]
    Partitions(String, usize),
    /// The answer cannot be understood: transaction markers, a broken batch.
    #[error("records cannot be read: {0}")]
    Unreadable(String),
    /// Anything else; waiting may help.
    #[error("Kafka: {0}")]
    Unavailable(String),
}

/// Reads the one topic.
#[derive(Debug)]
pub struct Topic {
    brokers: Vec<String>,
    name: String,
    timeout: Duration,
    partition: Option<Arc<PartitionClient>>,
    fetcher: Option<Fetcher>,
    buffers: Buffers,
}

impl Topic {
    /// Connects lazily.
    ///
    /// # Errors
    /// `Failure::Config` when no broker is configured.
    pub fn new(settings: &config::Kafka, name: &str) -> anyhow::Result<Self> {
        let timeout = Duration::from_millis(settings.request_timeout_ms);
        Ok(Self {
            brokers: settings.broker_list()?,
            name: name.to_owned(),
            timeout,
            partition: None,
            fetcher: None,
            buffers: Buffers::new(UNPACKED_KEPT, UNPACKED_BYTES),
        })
    }

    /// Records from `offset` on, at least one if there is one within `wait_ms_max`; and the topic's end. What follows them
    /// is asked for before they are taken apart, so that the next call finds its answer under way.
    ///
    /// # Errors
    /// See `Error`.
    pub async fn fetch(&mut self, offset: i64, bytes_max: i32, wait_ms_max: i32) -> Result<(Vec<Record>, i64), Error> {
        let limit = self.timeout + Duration::from_millis(u64::from(wait_ms_max.unsigned_abs()));
        let mut fetcher = match self.fetcher.take() {
            Some(fetcher) => fetcher,
            None => self.connect().await?,
        };
        let call = async {
            fetcher.ask(Ask { offset, bytes_max, wait_ms_max }).await?;
            let fetched = fetcher.answer().await?;
            let next = record_batch::next_offset(&fetched.batches).unwrap_or(offset).max(offset);
            fetcher.ask(Ask { offset: next, bytes_max, wait_ms_max }).await?;
            Ok((fetched, fetcher))
        };
        let late = |_| Error::Unavailable(format!("no answer within {} ms", limit.as_millis()));
        let (fetched, fetcher) = tokio::time::timeout(limit, call).await.map_err(late)??;
        let records = record_batch::records(&fetched.batches, offset, &self.buffers);
        let records = records.map_err(|error| Error::Unreadable(error.to_string()))?;
        self.fetcher = Some(fetcher);
        Ok((records, fetched.end))
    }

    async fn connect(&mut self) -> Result<Fetcher, Error> {
        // Proves that there is one partition.
        self.partition().await?;
        let connecting = Fetcher::connect(&self.brokers, &self.name, PARTITION);
        let late = |_| Error::Unavailable(format!("no answer within {} ms", self.timeout.as_millis()));
        let connected = tokio::time::timeout(self.timeout, connecting).await.map_err(late)?;
        if connected.is_err() {
            self.partition = None;
        }
        connected
    }

    /// The first offset that is still in the topic, and the offset that the next record will get.
    ///
    /// # Errors
    /// See `Error`.
    pub async fn bounds(&mut self) -> Result<(i64, i64), Error> {
        let partition = self.partition().await?;
        let call = async {
            Ok((partition.get_offset(OffsetAt::Earliest).await?, partition.get_offset(OffsetAt::Latest).await?))
        };
        match tokio::time::timeout(self.timeout, call).await {
            Ok(Ok(bounds)) => Ok(bounds),
            failed => Err(self.failed(failed.map(|result| result.map(drop)), -1)),
        }
    }

    async fn partition(&mut self) -> Result<Arc<PartitionClient>, Error> {
        if let Some(partition) = &self.partition {
            return Ok(Arc::clone(partition));
        }
        let name = self.name.clone();
        let connect = async {
            let client = build(&self.brokers).await?;
            // Also refreshes the cache of leaders, without which a moved partition is never found.
            let topics = client.list_topics().await?;
            let partitions = topics.iter().find(|topic| topic.name == name).map(|topic| topic.partitions.len());
            if partitions != Some(1) {
                return Ok(Err(partitions
                    .map_or_else(|| Error::NoTopic(name.clone()), |count| Error::Partitions(name.clone(), count))));
            }
            Ok(Ok(client.partition_client(name.clone(), PARTITION, UnknownTopicHandling::Error).await?))
        };
        match tokio::time::timeout(self.timeout, connect).await {
            Ok(Ok(connected)) => {
                let partition = Arc::new(connected?);
                self.partition = Some(Arc::clone(&partition));
                Ok(partition)
            }
            failed => Err(self.failed(failed.map(|result: Result<_, DriverError>| result.map(drop)), -1)),
        }
    }

    fn failed(&mut self, outcome: Result<Result<(), DriverError>, tokio::time::error::Elapsed>, offset: i64) -> Error {
        self.partition = None;
        match outcome {
            Err(_) => Error::Unavailable(format!("no answer within {} ms", self.timeout.as_millis())),
            Ok(Err(DriverError::ServerError { protocol_error: ProtocolError::OffsetOutOfRange, .. })) => {
                Error::OffsetOutOfRange(offset)
            }
            Ok(Err(DriverError::ServerError { protocol_error: ProtocolError::UnknownTopicOrPartition, .. })) => {
                Error::NoTopic(self.name.clone())
            }
            Ok(Err(error)) => {
                let text = super::postgres::chain(&error);
                if text.contains("control batch") || text.contains("Malformed") {
                    Error::Unreadable(text)
                } else {
                    Error::Unavailable(text)
                }
            }
            Ok(Ok(())) => Error::Unavailable("no answer".to_owned()),
        }
    }
}

/// Makes the topic with its one partition, unless it is there.
///
/// # Errors
/// `Failure::Unavailable` when the broker does not answer, `Failure::Config` when the topic has several partitions.
pub async fn ensure_topic(settings: &config::Kafka, name: &str) -> anyhow::Result<bool> {
    let brokers = settings.broker_list()?;
    let limit = Duration::from_millis(settings.request_timeout_ms);
    let work = async {
        let client = build(&brokers).await.context("connecting to Kafka")?;
        let topics = client.list_topics().await.context("listing the topics")?;
        if let Some(topic) = topics.iter().find(|topic| topic.name == name) {
            anyhow::ensure!(
                topic.partitions.len() == 1,
                Failure::Config(Error::Partitions(name.to_owned(), topic.partitions.len()).to_string())
            );
            return Ok(false);
        }
        let wait_ms = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX);
        let made = client.controller_client()?.create_topic(name, 1, 1, wait_ms).await;
        match made {
            Ok(()) => Ok(true),
            Err(DriverError::ServerError { protocol_error: ProtocolError::TopicAlreadyExists, .. }) => Ok(false),
            Err(error) => Err(anyhow::Error::from(error).context(format!("making the topic {name}"))),
        }
    };
    let unavailable = |text: String| Failure::Unavailable(format!("Kafka at {}: {text}", settings.brokers));
    match tokio::time::timeout(limit * 2, work).await {
        Ok(Ok(made)) => Ok(made),
        Ok(Err(error)) if error.downcast_ref::<Failure>().is_some() => Err(error),
        Ok(Err(error)) => Err(unavailable(format!("{error:#}")).into()),
        Err(_) => Err(unavailable(format!("no answer within {} ms", limit.as_millis() * 2)).into()),
    }
}

/// Names of all topics.
///
/// # Errors
/// Why the broker does not answer.
pub async fn topics(settings: &config::Kafka) -> anyhow::Result<Vec<String>> {
    let brokers = settings.broker_list()?;
    let asked = async { build(&brokers).await?.list_topics().await };
    let limit = Duration::from_millis(settings.request_timeout_ms);
    let topics =
        tokio::time::timeout(limit, asked).await.context("Kafka does not answer")?.context("listing the topics")?;
    Ok(topics.into_iter().map(|topic| topic.name).collect())
}

/// Asks the broker once for its topics, for whoever waits until it does its work.
///
/// # Errors
/// Why it does not.
pub async fn ping(settings: &config::Kafka) -> anyhow::Result<()> {
    topics(settings).await.map(drop)
}

async fn build(brokers: &[String]) -> Result<Client, DriverError> {
    // The library's own back-off waits up to 500 s and has no end; ours is outside.
    let backoff = BackoffConfig {
        init_backoff: Duration::from_millis(50),
        max_backoff: Duration::from_secs(1),
        base: 2.0,
        deadline: Some(Duration::from_secs(5)),
    };
    ClientBuilder::new(brokers.to_vec()).client_id("platform").backoff_config(backoff).build().await
}
