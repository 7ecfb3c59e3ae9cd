//! Fetching from the leader of one partition over a connection of its own: the next request is on its way while the
//! answer before it is taken apart.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{
    ApiKey, FetchRequest, FetchResponse, MetadataRequest, MetadataResponse, RequestHeader, ResponseHeader, TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, StrBytes};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::kafka::Error;

/// Versions that every broker since 2.3 speaks.
const METADATA_VERSION: i16 = 7;
const FETCH_VERSION: i16 = 11;
/// Largest answer: a batch may be larger than what was asked for, but not than a broker's largest message.
const ANSWER_MAX: usize = 256 << 20;
/// `OFFSET_OUT_OF_RANGE`, `UNKNOWN_TOPIC_OR_PARTITION`.
const OUT_OF_RANGE: i16 = 1;
const UNKNOWN_TOPIC: i16 = 3;

/// A connection to the leader.
#[derive(Debug)]
pub(super) struct Fetcher {
    stream: TcpStream,
    /// Memory of answers, used again as soon as nobody holds the last one.
    buffer: BytesMut,
    topic: TopicName,
    partition: i32,
    correlation: i32,
    /// What was asked for and not answered yet: its offset and the request's number.
    asked: Option<(i64, i32)>,
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ask {
    pub(super) offset: i64,
    pub(super) bytes_max: i32,
    pub(super) wait_ms_max: i32,
}

/// Batches as they came, and the topic's end.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) batches: Bytes,
    pub(super) end: i64,
}

impl Fetcher {
    /// Finds the leader through any of `brokers` and connects to it.
    pub(super) async fn connect(brokers: &[String], topic: &str, partition: i32) -> Result<Self, Error> {
        let name = TopicName(StrBytes::from_string(topic.to_owned()));
        let mut failure = Error::Unavailable("no broker is configured".into());
        for broker in brokers {
            match leader(broker, &name, partition).await {
                Ok(address) => {
                    let stream = open(&address).await?;
                    return Ok(Self {
                        stream,
                        buffer: BytesMut::new(),
                        topic: name,
                        partition,
                        correlation: 0,
                        asked: None,
                    });
                }
                Err(error @ Error::NoTopic(_)) => return Err(error),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// Asks without waiting for the answer, unless the same was asked already.
    pub(super) async fn ask(&mut self, ask: Ask) -> Result<(), Error> {
        match self.asked {
            Some((offset, _)) if offset == ask.offset => return Ok(()),
            // Its answer is not wanted any more.
            Some(_) => drop(self.answer().await?),
            None => {}
        }
        let mut partition = FetchPartition::default();
        partition.partition = self.partition;
        partition.current_leader_epoch = -1;
        partition.fetch_offset = ask.offset;
        partition.log_start_offset = -1;
        partition.partition_max_bytes = ask.bytes_max;
        let mut topic = FetchTopic::default();
        topic.topic = self.topic.clone();
        topic.partitions = vec![partition];
        let mut request = FetchRequest::default();
        request.replica_id = (-1).into();
        request.max_wait_ms = ask.wait_ms_max;
        request.min_bytes = 1;
        request.max_bytes = ask.bytes_max;
        request.session_epoch = -1;
        request.topics = vec![topic];
        self.correlation = self.correlation.wrapping_add(1);
        send(&mut self.stream, ApiKey::Fetch, FETCH_VERSION, self.correlation, &request).await?;
        self.asked = Some((ask.offset, self.correlation));
        Ok(())
    }

    /// Waits for the answer to what was asked last.
    pub(super) async fn answer(&mut self) -> Result<Fetched, Error> {
        let Some((offset, correlation)) = self.asked.take() else {
            return Err(Error::Unavailable("nothing was asked".into()));
        };
        let response: FetchResponse = receive(&mut self.stream, &mut self.buffer, FETCH_VERSION, correlation).await?;
        let topic = response.responses.into_iter().next();
        let part = topic.and_then(|topic| topic.partitions.into_iter().next());
        let code = part.as_ref().map_or(response.error_code, |part| part.error_code);
        match (code, part) {
            (0, Some(part)) => Ok(Fetched { batches: part.records.unwrap_or_default(), end: part.high_watermark }),
            (OUT_OF_RANGE, _) => Err(Error::OffsetOutOfRange(offset)),
            (UNKNOWN_TOPIC, _) => Err(Error::NoTopic(self.topic.to_string())),
            (code, _) => Err(refused(code)),
        }
    }
}

fn refused(code: i16) -> Error {
    Error::Unavailable(kafka_protocol::ResponseError::try_from_code(code).map_or_else(
        || "the answer names no partition".to_owned(),
        |error| format!("the broker answers {error:?} ({code})"),
    ))
}

fn io(error: &std::io::Error) -> Error {
    Error::Unavailable(error.to_string())
}

async fn open(address: &str) -> Result<TcpStream, Error> {
    let stream =
        TcpStream::connect(address).await.map_err(|error| Error::Unavailable(format!("{address}: {error}")))?;
    stream.set_nodelay(true).map_err(|error| io(&error))?;
    Ok(stream)
}

/// `host:port` of the partition's leader. Never makes the topic.
async fn leader(broker: &str, topic: &TopicName, partition: i32) -> Result<String, Error> {
    let mut stream = open(broker).await?;
    let mut wanted = MetadataRequestTopic::default();
    wanted.name = Some(topic.clone());
    let mut request = MetadataRequest::default();
    request.topics = Some(vec![wanted]);
    request.allow_auto_topic_creation = false;
    send(&mut stream, ApiKey::Metadata, METADATA_VERSION, 0, &request).await?;
    let response: MetadataResponse = receive(&mut stream, &mut BytesMut::new(), METADATA_VERSION, 0).await?;
    let found = response.topics.into_iter().next();
    if found.as_ref().is_none_or(|found| found.error_code == UNKNOWN_TOPIC) {
        return Err(Error::NoTopic(topic.to_string()));
    }
    let parts = found.map(|found| found.partitions).unwrap_or_default();
    let leader = parts.iter().find(|part| part.partition_index == partition).map(|part| part.leader_id);
    let node = leader.and_then(|leader| response.brokers.iter().find(|broker| broker.node_id == leader));
    let node = node.ok_or_else(|| Error::Unavailable("the partition has no leader now".into()))?;
    Ok(format!("{}:{}", node.host.as_str(), node.port))
}

async fn send<T: Encodable + HeaderVersion>(
    stream: &mut TcpStream,
    key: ApiKey,
    version: i16,
    correlation: i32,
    request: &T,
) -> Result<(), Error> {
    let unreadable = |error: &dyn std::fmt::Display| Error::Unreadable(format!("a request: {error:#}"));
    let mut header = RequestHeader::default();
    header.request_api_key = key as i16;
    header.request_api_version = version;
    header.correlation_id = correlation;
    header.client_id = Some(StrBytes::from_static_str("platform"));
    let mut body = BytesMut::new();
    header.encode(&mut body, T::header_version(version)).map_err(|error| unreadable(&error))?;
    request.encode(&mut body, version).map_err(|error| unreadable(&error))?;
    let mut frame = BytesMut::with_capacity(body.len() + 4);
    frame.put_i32(i32::try_from(body.len()).map_err(|error| unreadable(&error))?);
    frame.put(body);
    stream.write_all(&frame).await.map_err(|error| io(&error))
}

async fn receive<T: Decodable + HeaderVersion>(
    stream: &mut TcpStream,
    buffer: &mut BytesMut,
    version: i16,
    correlation: i32,
) -> Result<T, Error> {
    let size = stream.read_i32().await.map_err(|error| io(&error))?;
    let size = usize::try_from(size).ok().filter(|size| *size <= ANSWER_MAX);
    let size = size.ok_or_else(|| Error::Unreadable("an answer of impossible size".into()))?;
    buffer.clear();
    buffer.reserve(size);
    let mut limited = stream.take(u64::try_from(size).unwrap_or(u64::MAX));
    while buffer.len() < size {
        if limited.read_buf(buffer).await.map_err(|error| io(&error))? == 0 {
            return Err(Error::Unavailable("the broker closed the connection".into()));
        }
    }
    let mut frame = buffer.split().freeze();
    let unreadable = |error: &dyn std::fmt::Display| Error::Unreadable(format!("an answer: {error:#}"));
    let header = ResponseHeader::decode(&mut frame, T::header_version(version)).map_err(|error| unreadable(&error))?;
    if header.correlation_id != correlation {
        return Err(Error::Unavailable("the answer belongs to another request".into()));
    }
    let response = T::decode(&mut frame, version).map_err(|error| unreadable(&error))?;
    if frame.has_remaining() {
        return Err(Error::Unreadable("an answer is longer than it says".into()));
    }
    Ok(response)
}
