//! A closed loop of HTTP/1.1 requests over kept connections: each connection sends its next request when it has its answer.
//! Plain sockets, so that it costs a few microseconds a request beside the server that it measures.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::figures::percentile;

/// Longest wait for one answer.
const LIMIT: Duration = Duration::from_secs(60);

/// Makes the bytes of the n-th request.
pub(crate) type Make<'a> = &'a (dyn Fn(u64) -> Vec<u8> + Sync);

/// What a server did under load.
pub(crate) struct Outcome {
    pub(crate) requests: f64,
    pub(crate) seconds: f64,
    /// Sorted, in seconds.
    latencies: Vec<f64>,
}

impl Outcome {
    pub(crate) fn rate(&self) -> f64 {
        self.requests / self.seconds
    }

    pub(crate) fn latency(&self, share: f64) -> f64 {
        percentile(&self.latencies, share)
    }
}

/// Loads `address` over so many connections for some time; every answer must have one of `statuses`.
pub(crate) fn load(
    address: SocketAddr,
    connections: usize,
    span: Duration,
    statuses: &[u16],
    first: u64,
    make: Make<'_>,
) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (number, latencies) = (Cell::new(first), RefCell::new(Vec::new()));
    let begun = Instant::now();
    runtime.block_on(async {
        let clients = (0..connections).map(|_| client(address, begun + span, statuses, &number, &latencies, make));
        futures_util::future::join_all(clients).await;
    });
    let seconds = begun.elapsed().as_secs_f64();
    let mut latencies = latencies.into_inner();
    latencies.sort_by(f64::total_cmp);
    Outcome { requests: latencies.len() as f64, seconds, latencies }
}

async fn client(
    address: SocketAddr,
    end: Instant,
    statuses: &[u16],
    number: &Cell<u64>,
    latencies: &RefCell<Vec<f64>>,
    make: Make<'_>,
) {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    stream.set_nodelay(true).expect("set");
    let mut buffer = Vec::with_capacity(64 * 1024);
    while Instant::now() < end {
        let request = make(number.replace(number.get() + 1));
        let begun = Instant::now();
        stream.write_all(&request).await.expect("written");
        let answer = tokio::time::timeout(LIMIT, read(&mut stream, &mut buffer)).await;
        let status = answer.expect("an answer in time");
        assert!(statuses.contains(&status), "{status}: {}", String::from_utf8_lossy(&buffer));
        latencies.borrow_mut().push(begun.elapsed().as_secs_f64());
    }
}

/// Reads one answer, whole, and returns its status.
async fn read(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> u16 {
    buffer.clear();
    let mut end = None;
    loop {
        let read = stream.read_buf(buffer).await.expect("read");
        assert_ne!(read, 0, "the server closed the connection");
        if end.is_none() {
            end = head(buffer);
        }
        if let Some((status, end)) = end
            && buffer.len() >= end
        {
            return status;
        }
    }
}

/// Status, and where the body ends; `None` while the head is not there.
fn head(bytes: &[u8]) -> Option<(u16, usize)> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(begin) = response.parse(bytes).expect("HTTP") else { return None };
    let status = response.code.expect("a status");
    let length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length =
        length.map(|header| std::str::from_utf8(header.value).expect("digits").parse::<usize>().expect("a number"));
    assert!(length.is_some() || status == 304, "an answer without a length");
    Some((status, begin + length.unwrap_or(0)))
}
