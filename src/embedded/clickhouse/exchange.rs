//! One request from its statement to the end of its answer, in a thread that may block.

use std::io::{self, Read};
use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;

use super::analysis::QueryClass;
use super::body::{BodyReader, Limited};
use super::cancel::Running;
use super::compression::BlockReader;
use super::engine::{Engine, Lease};
use super::exception::{self, Exception};
use super::format::Splicer;
use super::profile::Profile;
use super::request::Request;
use super::response::{Response, Stop};
use super::statement::{self, InsertData, Statement, Whole};

/// Bytes of a body in which the statement of an INSERT must end; ClickHouse's `max_query_size`.
const STATEMENT_BYTES: u64 = 256 << 10;
/// Longest statement that is not an INSERT with data behind it. The engine's own limit is 256 KiB unless the request
/// raises `max_query_size`.
const WHOLE_STATEMENT_BYTES_MAX: u64 = 16 << 20;
/// Bytes handed to the engine at once.
const DATA_BYTES: usize = 1 << 20;

/// A request that may run.
pub(super) struct Exchange {
    pub(super) engine: Arc<Engine>,
    pub(super) request: Request,
    pub(super) body: BodyReader,
    pub(super) body_bytes_max: u64,
    pub(super) running: Running,
    pub(super) place: OwnedSemaphorePermit,
}

impl Exchange {
    /// Runs to the end and answers. Returns ClickHouse's error number for the log; 0 is success.
    pub(super) fn run(self, mut response: Response) -> u32 {
        let Self { engine, request, body, body_bytes_max, running, place } = self;
        let outcome = open_body(&request, body, body_bytes_max)
            .map_err(Stop::from)
            .and_then(|mut body| answer(&engine, &request, &mut body, &running, &mut response));
        // The statement has ended; whoever reads what was held back of its answer takes no place.
        drop(place);
        match outcome {
            Ok(()) => response.finish().map_or(exception::NETWORK_ERROR, |()| 0),
            Err(Stop::Gone) => exception::NETWORK_ERROR,
            Err(Stop::Failed(error)) => {
                response.fail(&error);
                error.code
            }
        }
    }
}

fn answer(
    engine: &Arc<Engine>,
    request: &Request,
    body: &mut dyn Read,
    running: &Running,
    response: &mut Response,
) -> Result<(), Stop> {
    let (text, statement) = read_statement(request.query.as_bytes(), body)?;
    let mut lease = engine.lease(profile(engine, request, &statement))?;
    running.start(lease.tag())?;
    let outcome = match statement {
        Statement::InsertData(insert) => insert_data(&mut lease, request, &text, &insert, body, response),
        Statement::Whole(whole) => run_whole(&mut lease, request, &text, &whole, response),
    };
    let killed = running.end();
    // Anything but a clean end closes the connection: nothing of it can reach another request.
    if outcome.is_ok() && !killed {
        lease.give_back();
    }
    outcome
}

fn profile(engine: &Engine, request: &Request, statement: &Statement) -> Profile {
    let mut settings = request.settings.clone();
    if let Statement::Whole(whole) = statement
        && whole.select
        && splicer(request, whole).is_none()
    {
        let format = whole.format.as_deref().unwrap_or(&request.default_format);
        for (name, largest) in engine.unstreamed_limits(format) {
            let asked = settings.get(name).and_then(|value| value.parse().ok()).filter(|asked| *asked > 0);
            settings.insert(name.into(), asked.map_or(largest, |asked: u64| asked.min(largest)).to_string());
        }
    }
    Profile { read_only: request.read_only, database: request.database.clone(), settings }
}

/// For answers that can be streamed.
fn splicer(request: &Request, whole: &Whole) -> Option<Splicer> {
    let extra_rows = whole.extra_rows || request.settings.contains_key("extremes");
    let format = whole.format.as_deref().unwrap_or(&request.default_format);
    Splicer::new(format).filter(|_| whole.select && !extra_rows)
}

fn open_body(request: &Request, body: BodyReader, bytes_max: u64) -> io::Result<Box<dyn Read>> {
    let decoded = request.body_encoding.decoder(body)?;
    Ok(if request.decompress {
        Box::new(Limited::new(BlockReader::new(decoded), bytes_max))
    } else {
        Box::new(Limited::new(decoded, bytes_max))
    })
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Failed(error.into())
    }
}

/// The statement is the URL's text, a newline and the body, as in ClickHouse's server. Reads of the body only what the
/// statement needs; what was read too much is at the end of the text.
fn read_statement(url: &[u8], body: &mut dyn Read) -> Result<(Vec<u8>, Statement), Stop> {
    let mut text = url.to_vec();
    if !text.is_empty() {
        text.push(b'\n');
        if let Some(statement) = statement::parse(&text, false)? {
            return Ok((text, statement));
        }
    }
    let read = (&mut *body).take(STATEMENT_BYTES).read_to_end(&mut text)?;
    let complete = u64::try_from(read).unwrap_or(u64::MAX) < STATEMENT_BYTES;
    if let Some(statement) = statement::parse(&text, complete)? {
        return not_empty(text, statement);
    }
    body.take(WHOLE_STATEMENT_BYTES_MAX).read_to_end(&mut text)?;
    if u64::try_from(text.len()).unwrap_or(u64::MAX) > WHOLE_STATEMENT_BYTES_MAX {
        return Err(Stop::Failed(Exception::new(
            exception::QUERY_IS_TOO_LARGE,
            "the statement is longer than 16 MiB; send data behind INSERT … FORMAT",
        )));
    }
    match statement::parse(&text, true)? {
        Some(statement) => not_empty(text, statement),
        None => Err(Stop::Failed(Exception::new(exception::SYNTAX_ERROR, "the statement does not end"))),
    }
}

fn not_empty(text: Vec<u8>, statement: Statement) -> Result<(Vec<u8>, Statement), Stop> {
    if text.trim_ascii().is_empty() {
        return Err(Stop::Failed(Exception::new(exception::SYNTAX_ERROR, "Syntax error: Empty query")));
    }
    Ok((text, statement))
}

/// One statement, and of a kind that the request may run.
fn check(lease: &mut Lease, read_only: bool, text: &[u8]) -> Result<QueryClass, Exception> {
    let analysis = lease.connection().classify(text);
    if analysis.statements > 1 {
        return Err(Exception::new(
            exception::SYNTAX_ERROR,
            "Syntax error (Multi-statements are not allowed): send one statement a request",
        ));
    }
    if read_only && matches!(analysis.class, QueryClass::Write | QueryClass::Control) {
        return Err(Exception::new(
            exception::READONLY,
            "Cannot execute query in readonly mode: this user may only read, and GET never writes (use POST)",
        ));
    }
    Ok(analysis.class)
}

fn insert_data(
    lease: &mut Lease,
    request: &Request,
    text: &[u8],
    insert: &InsertData,
    body: &mut dyn Read,
    response: &mut Response,
) -> Result<(), Stop> {
    check(lease, request.read_only, text.get(..insert.data_start).unwrap_or_default())?;
    let sql = text.get(..insert.sql_end).unwrap_or_default();
    let mut data = text.get(insert.data_start..).unwrap_or_default().chain(body);
    let failed = |error: String| Stop::Failed(Exception::from_engine(error));
    let mut running = lease.connection().insert(sql, &insert.format, &request.parameters).map_err(failed)?;
    let mut piece = Vec::with_capacity(DATA_BYTES);
    loop {
        piece.clear();
        // A body that breaks off here drops `running`, which cancels the insert: nothing of it is stored.
        data.by_ref().take(u64::try_from(DATA_BYTES).unwrap_or(u64::MAX)).read_to_end(&mut piece)?;
        if piece.is_empty() {
            break;
        }
        running.append(&piece).map_err(failed)?;
    }
    response.count(running.finish().map_err(failed)?);
    Ok(())
}

fn run_whole(
    lease: &mut Lease,
    request: &Request,
    text: &[u8],
    whole: &Whole,
    response: &mut Response,
) -> Result<(), Stop> {
    let class = check(lease, request.read_only, text)?;
    let format = whole.format.as_deref().unwrap_or(&request.default_format);
    response.set_format(format);
    let streamed = splicer(request, whole).filter(|_| class == QueryClass::Read);
    let parameters = &request.parameters;
    let failed = |error: String| Stop::Failed(Exception::from_engine(error));
    let Some(mut splicer) = streamed else {
        let answer = lease.connection().query(text, format, parameters).map_err(failed)?;
        response.count(answer.statistics());
        return response.write(answer.bytes());
    };
    let mut stream = lease.connection().stream(text, format, parameters).map_err(failed)?;
    while let Some(piece) = stream.next().map_err(failed)? {
        response.count(piece.statistics());
        response.write(splicer.splice(piece.bytes()))?;
    }
    Ok(())
}
