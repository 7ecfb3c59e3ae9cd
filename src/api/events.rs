//! `GET /v1/events`: what happens, as server-sent events (the WHATWG HTML standard, section 9.2).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::header;
use actix_web::web::Bytes;
use actix_web::{HttpRequest, HttpResponse, get};
use futures_util::stream::{Stream, unfold};
use serde::Serialize;
use tokio::time::Instant;

use super::auth::{Caller, Read};
use super::conditions::negotiate;
use super::pipeline;
use super::problem::{ApiError, ApiResult, Code, Problem};
use super::query::Query;
use super::replica::Seen;
use super::state::{Shared, State};

/// Time between two looks.
const PAUSE: Duration = Duration::from_secs(1);
/// Silence after which a comment is sent, so that nothing between takes the connection for dead.
const COMMENT_AFTER: Duration = Duration::from_secs(15);

/// Streams what happens: `checkpoint` once a second at most while the mirror moves, `table` when a table's state changes. The
/// stream ends after `api.events_seconds_max`; a client connects again by itself.
#[utoipa::path(
    tag = "pipeline",
    responses(
        (status = 200, content_type = "text/event-stream", body = String, description = "Events until the limit"),
        (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem), (status = 406, body = Problem),
        (status = 503, body = Problem, description = "Too many streams"),
    )
)]
#[get("/events")]
pub(crate) async fn get_events(state: State, _caller: Caller<Read>, request: HttpRequest) -> ApiResult<HttpResponse> {
    Query::none(&request)?;
    negotiate(&request, &["text/event-stream"])?;
    let shared = Arc::clone(&state.shared);
    let place = Arc::clone(&shared.streams).try_acquire_owned();
    let place = place.map_err(|_| ApiError::new(Code::Overloaded, "too many event streams").retry_after(5))?;
    let until = Instant::now() + Duration::from_secs(shared.settings.events_seconds_max);
    let stream =
        Events { shared, until, last: None, tables: BTreeMap::new(), said: Instant::now(), queue: VecDeque::new() };
    Ok(HttpResponse::Ok()
        .content_type("text/event-stream")
        .insert_header((header::CACHE_CONTROL, "no-store"))
        // Compressing would hold events back.
        .insert_header((header::CONTENT_ENCODING, "identity"))
        .insert_header(("x-accel-buffering", "no"))
        .streaming(stream.bytes(place)))
}

/// One client's stream.
struct Events {
    shared: Arc<Shared>,
    until: Instant,
    /// What was sent last; `None` before the first look.
    last: Option<Arc<Seen>>,
    tables: BTreeMap<String, String>,
    said: Instant,
    queue: VecDeque<Bytes>,
}

impl Events {
    fn bytes(self, place: tokio::sync::OwnedSemaphorePermit) -> impl Stream<Item = Result<Bytes, actix_web::Error>> {
        unfold((self, place), async |(mut events, place)| {
            let next = events.next().await?;
            Some((Ok(next), (events, place)))
        })
    }

    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(next) = self.queue.pop_front() {
                self.said = Instant::now();
                return Some(next);
            }
            if self.last.is_some() {
                if Instant::now() + PAUSE > self.until || self.shared.is_draining() {
                    return None;
                }
                tokio::time::sleep(PAUSE).await;
            } else {
                self.queue.push_back(Bytes::from_static(b"retry: 2000\n\n"));
            }
            self.look();
            if self.queue.is_empty() && self.said.elapsed() >= COMMENT_AFTER {
                self.queue.push_back(Bytes::from_static(b":\n\n"));
            }
        }
    }

    /// Queues what is new.
    fn look(&mut self) {
        let seen = self.shared.replica.last();
        let position = |seen: &Seen| seen.checkpoint.as_ref().map(|checkpoint| checkpoint.position());
        let moved = self.last.as_ref().is_none_or(|last| position(last) != position(&seen));
        if let (true, Some(checkpoint)) = (moved, pipeline::checkpoint(&seen)) {
            self.queue.extend(event("checkpoint", &checkpoint));
        }
        for table in pipeline::tables(&seen) {
            let state = format!("{} {} {}", table.state, table.reason, table.parked_rows);
            if self.tables.insert(table.table.clone(), state.clone()).is_none_or(|before| before != state) {
                self.queue.extend(event("table", &table));
            }
        }
        self.last = Some(seen);
    }
}

/// An event; JSON has no line breaks of its own.
fn event<T: Serialize>(name: &str, data: &T) -> Option<Bytes> {
    let data = serde_json::to_string(data).ok()?;
    Some(Bytes::from(format!("event: {name}\ndata: {data}\n\n")))
}
