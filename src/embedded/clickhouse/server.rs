//! The HTTP server: routes, who may ask, how many at once, and the end.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::body::{BoxBody, SizedStream};
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::web::{self, Data, Payload};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer};
use anyhow::Context as _;
use futures_util::{Stream, StreamExt as _};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::access::{Role, Users};
use super::body::{BodyReader, BodySender, Incoming, Outgoing};
use super::cancel::{Cancel, Running};
use super::engine::Engine;
use super::exception::{self, Exception};
use super::exchange::Exchange;
use super::form;
use super::request::{self, Request};
use super::response::{Head, Response, Shape};
use crate::domain::Failure;
use crate::shutdown::Shutdown;

/// Longest wait for one of the places for running statements.
const PLACE_TIMEOUT: Duration = Duration::from_secs(10);
/// Between the error at the end of an answer and the broken connection, so that a client reads the one before the other.
const BREAK_DELAY: Duration = Duration::from_millis(100);
/// Pieces of a body on their way between HTTP and engine.
const PIECES_ON_THE_WAY: usize = 2;
/// Bytes of a refused request's body that are read and thrown away, so that the client gets to read the answer.
const DRAIN_BYTES_MAX: usize = 8 << 20;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Limits of the front.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Statements at once.
    pub concurrency_max: usize,
    /// Bytes of a body, unpacked.
    pub body_bytes_max: u64,
    /// Longest that a statement may run, in seconds.
    pub execution_time_max: Duration,
    /// Time that requests in flight get to end after the signal.
    pub drain_timeout: Duration,
}

/// What the handlers share.
#[derive(Debug)]
pub(super) struct Front {
    pub(super) engine: Arc<Engine>,
    pub(super) users: Users,
    pub(super) limits: Limits,
    pub(super) places: Arc<Semaphore>,
    pub(super) buffer_folder: PathBuf,
    pub(super) runtime: Handle,
}

/// Binds the address.
///
/// # Errors
/// `Failure::Unavailable` that names a taken port and what to do.
pub(super) fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).with_context(|| {
        Failure::Unavailable(format!(
            "{address} cannot be listened on: stop what has it, or choose another with --bind"
        ))
    })
}

/// Serves until the signal, then lets requests in flight end.
///
/// # Errors
/// The server cannot start.
pub(super) async fn serve(front: Front, listener: TcpListener, shutdown: &Shutdown) -> anyhow::Result<()> {
    let drain = front.limits.drain_timeout;
    let engine = Arc::clone(&front.engine);
    let front = Data::new(front);
    let server = HttpServer::new(move || {
        App::new()
            .app_data(Data::clone(&front))
            .route("/ping", web::get().to(ok))
            .route("/ping", web::head().to(ok))
            .route("/replicas_status", web::get().to(ok))
            .route("/", web::route().to(root))
            .default_service(web::to(not_found))
    })
    // Without it each answer waits for the other side's delayed acknowledgement: 48 instead of 9 ms.
    .tcp_nodelay(true)
    // A client that closes its side has gone: only so is it noticed while its statement runs.
    .h1_allow_half_closed(false)
    .keep_alive(Duration::from_secs(30))
    .client_request_timeout(Duration::from_secs(30))
    .shutdown_timeout(drain.as_secs())
    .disable_signals()
    .workers(2)
    .listen(listener)
    .context("starting the HTTP server")?
    .run();
    let handle = server.handle();
    let mut server = tokio::spawn(server);
    tokio::select! {
        ended = &mut server => return ended.context("the HTTP server")?.context("the HTTP server"),
        () = shutdown.token().cancelled() => {}
    }
    tracing::info!("stopping: requests in flight get {} s", drain.as_secs());
    let stopping = handle.stop(true);
    if tokio::time::timeout(drain, stopping).await.is_err() {
        tokio::task::spawn_blocking(move || engine.kill_all()).await.context("cancelling statements")?;
    }
    Ok(())
}

async fn ok() -> HttpResponse {
    HttpResponse::Ok().content_type("text/html; charset=UTF-8").body("Ok.\n")
}

async fn not_found() -> HttpResponse {
    HttpResponse::NotFound()
        .content_type("text/plain; charset=UTF-8")
        .body("There is no such path here: statements go to /, health checks to /ping\n")
}

async fn root(http: HttpRequest, front: Data<Front>, payload: Payload) -> HttpResponse {
    let mut payload = payload;
    match handle(&http, &front, &mut payload).await {
        Ok(response) => response,
        Err(error) => {
            drain(&mut payload).await;
            refusal(&front, &error)
        }
    }
}

/// An answer that is given before a statement runs.
fn refusal(front: &Front, error: &Exception) -> HttpResponse {
    let mut response = HttpResponse::build(error.status());
    response
        .content_type("text/plain; charset=UTF-8")
        .insert_header(("X-ClickHouse-Exception-Code", error.code.to_string()))
        .insert_header(("X-ClickHouse-Server-Display-Name", DISPLAY_NAME));
    response.body(error.line(front.engine.version()))
}

/// Named in every answer.
const DISPLAY_NAME: &str = "platform clickhouse";

async fn handle(http: &HttpRequest, front: &Front, payload: &mut Payload) -> Result<HttpResponse, Exception> {
    let mut fields = request::url_fields(http)?;
    let method = http.method().as_str();
    if matches!(method, "GET" | "HEAD") && !fields.iter().any(|(name, _)| name == "query") {
        return Ok(ok().await);
    }
    if !matches!(method, "GET" | "HEAD" | "POST") {
        return Err(Exception::new(exception::NOT_IMPLEMENTED, "only GET, HEAD and POST are understood"));
    }
    let role: Role = front.users.authenticate(&request::credentials(http, &fields)?)?;
    let form = form::read(http, payload).await?;
    let is_form = form.is_some();
    fields.extend(form.unwrap_or_default());
    let mut request = Request::new(http, fields, role)?;
    request.cap_execution_time(front.limits.execution_time_max);
    let place = tokio::time::timeout(PLACE_TIMEOUT, Arc::clone(&front.places).acquire_owned()).await;
    let Ok(Ok(place)) = place else {
        return Err(Exception::new(
            exception::TOO_MANY_SIMULTANEOUS_QUERIES,
            format_args!("Too many simultaneous queries. Maximum: {}", front.limits.concurrency_max),
        ));
    };
    let (head_sender, mut head) = oneshot::channel();
    let (out_sender, out) = mpsc::channel(PIECES_ON_THE_WAY);
    let (in_sender, pieces) = mpsc::channel(PIECES_ON_THE_WAY);
    let running = Running::default();
    let shape = Shape {
        encoding: request.answer_encoding,
        blocks: request.compress,
        buffer_in: request.wait_end_of_query.then(|| front.buffer_folder.clone()),
        engine_version: front.engine.version().to_owned(),
        query_id: request.query_id.clone(),
    };
    let response = Response::new(shape, head_sender, BodySender::new(out_sender, front.runtime.clone()))?;
    let cancel = Cancel::new(running.clone(), Arc::clone(&front.engine), front.runtime.clone());
    let exchange = Exchange {
        engine: Arc::clone(&front.engine),
        body: BodyReader::new(pieces, front.runtime.clone()),
        body_bytes_max: front.limits.body_bytes_max,
        running,
        request,
        place,
    };
    front.runtime.spawn_blocking(move || {
        let (query_id, begun) = (exchange.request.query_id.clone(), Instant::now());
        let code = exchange.run(response);
        tracing::debug!(query_id, code, elapsed_ms = begun.elapsed().as_millis(), "statement ended");
    });
    let head = tokio::select! {
        biased;
        head = &mut head => head,
        () = feed(payload, in_sender, is_form) => head.await,
    };
    let head = head.map_err(|_| Exception::from_engine("the statement's thread ended without an answer".into()))?;
    if !head.status.is_success() {
        drain(payload).await;
    }
    Ok(answer(head, out, cancel))
}

/// Passes the body on until its end or until nobody wants it.
async fn feed(payload: &mut Payload, pieces: mpsc::Sender<Incoming>, is_form: bool) {
    if !is_form {
        while let Some(piece) = payload.next().await {
            // An error here is a client that left: dropping the sender without an end says so.
            let Ok(piece) = piece else { return };
            if pieces.send(Incoming::Data(piece)).await.is_err() {
                return;
            }
        }
    }
    drop(pieces.send(Incoming::End).await);
}

/// Reads the rest of a body within limits.
async fn drain(payload: &mut Payload) {
    let mut left = DRAIN_BYTES_MAX;
    let read = async {
        while let Some(Ok(piece)) = payload.next().await {
            left = left.saturating_sub(piece.len());
            if left == 0 {
                return;
            }
        }
    };
    drop(tokio::time::timeout(DRAIN_TIMEOUT, read).await);
}

fn answer(head: Head, pieces: mpsc::Receiver<Outgoing>, cancel: Cancel) -> HttpResponse {
    let mut response = HttpResponse::build(head.status);
    response.insert_header(("X-ClickHouse-Server-Display-Name", DISPLAY_NAME));
    for (name, value) in head.headers {
        // A query_id or a format with odd bytes is left out of the headers.
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.insert_header((HeaderName::from_static(lower(name)), value));
        }
    }
    let body = body(pieces, cancel);
    match head.length {
        Some(length) => response.body(BoxBody::new(SizedStream::new(length, body))),
        None => response.streaming(body),
    }
}

/// Header names must be lower case to be static.
fn lower(name: &'static str) -> &'static str {
    match name {
        "Content-Type" => "content-type",
        "Content-Encoding" => "content-encoding",
        "Vary" => "vary",
        "X-ClickHouse-Format" => "x-clickhouse-format",
        "X-ClickHouse-Query-Id" => "x-clickhouse-query-id",
        "X-ClickHouse-Timezone" => "x-clickhouse-timezone",
        "X-ClickHouse-Summary" => "x-clickhouse-summary",
        "X-ClickHouse-Exception-Tag" => "x-clickhouse-exception-tag",
        _ => "x-clickhouse-exception-code",
    }
}

/// The pieces as HTTP takes them. Dropped before its end, it cancels the statement.
fn body(
    pieces: mpsc::Receiver<Outgoing>,
    cancel: Cancel,
) -> impl Stream<Item = Result<web::Bytes, std::io::Error>> + use<> {
    futures_util::stream::unfold((pieces, cancel), |(mut pieces, cancel)| async move {
        let item = match pieces.recv().await? {
            Outgoing::Data(bytes) => Ok(bytes),
            Outgoing::Broken => {
                tokio::time::sleep(BREAK_DELAY).await;
                Err(std::io::Error::other("the statement failed"))
            }
        };
        Some((item, (pieces, cancel)))
    })
}
