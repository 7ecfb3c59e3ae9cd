//! Reading your own writes: an analytics request that brings a consistency token sees that write, or is told to wait.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::http::header::HeaderMap;
use chrono::Utc;
use metrics::{counter, histogram};
use tokio::time::Instant;

use super::conditions::Prefer;
use super::posts::TOKEN_HEADER;
use super::posts_sql;
use super::problem::{ApiError, ApiResult, Code};
use super::replica::Seen;
use super::state::Worker;
use crate::catalog::endpoint_parameter::format_moment;
use crate::domain::{Lsn, Token};
use crate::store::replication;

/// How long the first look at the checkpoint may take when no wait was asked for.
const LOOK: Duration = Duration::from_secs(2);
/// When a client should ask again while the pipeline is down: the supervisor mends what it can within seconds.
const DOWN_RETRY_AFTER_S: u32 = 5;

/// What an analytics answer may claim, and whether a wait was granted.
#[derive(Debug)]
pub(super) struct Gate {
    /// The state of the mirror, from before the query.
    pub seen: Arc<Seen>,
    /// Value of `Preference-Applied`.
    pub applied: Option<String>,
    /// The mirror has not seen the token's write, and the request takes what there is.
    pub stale: bool,
}

/// The token of a request.
///
/// # Errors
/// 400 when it is malformed or given twice.
pub(super) fn token(headers: &HeaderMap) -> ApiResult<Option<Token>> {
    let mut values = headers.get_all(TOKEN_HEADER);
    let Some(value) = values.next() else { return Ok(None) };
    let bad = || ApiError::new(Code::InvalidToken, "X-Consistency-Token must be one token as a write answered it");
    let token = value.to_str().ok().and_then(|text| text.parse().ok()).filter(|_| values.next().is_none());
    token.map(Some).ok_or_else(bad)
}

/// How a token fared.
#[derive(Debug)]
pub(super) struct Verdict {
    /// The state of the mirror when that was found.
    pub seen: Arc<Seen>,
    /// Whether the mirror has what the token asks for.
    pub satisfied: bool,
    /// Why no change reaches the mirror, if that is known; looked at only when the token is not satisfied.
    pub down: Option<String>,
    /// How long it took.
    pub waited: Duration,
}

/// Lets a request through when the mirror has what its token asks for, after a wait if it prefers one.
///
/// # Errors
/// 400 for a token that this log has not reached, 409 for a token of another log, 503 `pipeline-down` and `replica-behind`.
pub(super) async fn gate(worker: &Worker, request: &HttpRequest) -> ApiResult<Gate> {
    let Some(token) = token(request.headers())? else {
        return Ok(Gate { seen: worker.shared.replica.last(), applied: None, stale: false });
    };
    let prefer = Prefer::of(request);
    let verdict = judge(worker, token, prefer.wait).await?;
    if !verdict.satisfied && !prefer.lenient {
        return Err(refuse(&verdict, token));
    }
    Ok(Gate { seen: verdict.seen, applied: applied(&prefer), stale: !verdict.satisfied })
}

/// Value of `Preference-Applied` for preferences that `judge` was given.
pub(super) fn applied(prefer: &Prefer) -> Option<String> {
    let wait = prefer.wait.map(|wait| format!("wait={}", wait.as_secs()));
    let lenient = prefer.lenient.then(|| "handling=lenient".to_owned());
    let applied: Vec<String> = wait.into_iter().chain(lenient).collect();
    (!applied.is_empty()).then(|| applied.join(", "))
}

/// Compares the mirror with a token, for as long as `wait` and as there is hope.
///
/// # Errors
/// 400 for a token that this log has not reached, 409 for a token of another log, 503 when too many wait.
pub(super) async fn judge(worker: &Worker, token: Token, wait: Option<Duration>) -> ApiResult<Verdict> {
    let began = Instant::now();
    let deadline = began + wait.unwrap_or_default();
    // Held while this request waits; the first look is free.
    let mut place = None;
    loop {
        let seen = worker.shared.replica.fresh(deadline.max(began + LOOK)).await;
        if satisfied(&seen, token)? {
            let waited = began.elapsed();
            histogram!("platform_api_consistency_wait_seconds").record(waited.as_secs_f64());
            return Ok(Verdict { seen, satisfied: true, down: None, waited });
        }
        if place.is_none() {
            place = Some(worker.shared.waiters.try_acquire().map_err(|_| {
                ApiError::new(Code::Overloaded, "too many requests wait for the mirror").retry_after(1)
            })?);
            refuse_future(worker, token, wait.is_some()).await?;
        }
        let down = worker.shared.health.down(worker).await;
        if down.is_some() || Instant::now() >= deadline {
            return Ok(Verdict { seen, satisfied: false, down, waited: began.elapsed() });
        }
    }
}

fn satisfied(seen: &Seen, token: Token) -> ApiResult<bool> {
    let log = seen.checkpoint.as_ref().map_or(seen.log, |checkpoint| checkpoint.log);
    if log != token.log {
        let detail = format!("the token is of log {}, the mirror follows log {log}", token.log);
        return Err(ApiError::new(Code::OtherLog, detail));
    }
    Ok(seen.checkpoint.as_ref().is_some_and(|checkpoint| checkpoint.watermark >= token.lsn))
}

/// Asks PostgreSQL once where its log ends: a token beyond that was never given out. A request that waits also writes a
/// barrier, so that the stream moves past the token even when nobody writes; one barrier serves every token below it.
async fn refuse_future(worker: &Worker, token: Token, waits: bool) -> ApiResult<()> {
    let barrier = &worker.shared.barrier;
    if barrier.load(Ordering::SeqCst) >= token.lsn.get() {
        return Ok(());
    }
    let ask = async {
        let client = worker.postgres().await?;
        let position = posts_sql::position(&client).await?.ok_or_else(|| ApiError::internal("no position"))?;
        if !waits || position < token.lsn {
            return Ok(position);
        }
        // Its content, the pipeline's name, is for those who read the log.
        let emitted = replication::emit(&client, replication::BARRIER_PREFIX, &worker.shared.pipeline).await;
        emitted.map_err(|error| ApiError::new(Code::DatabaseUnavailable, "no barrier").because(format!("{error:#}")))
    };
    let end = match worker.limited(ask).await {
        Ok(end) => end,
        // PostgreSQL is away: nothing can be said about the token, and the mirror may still come to it.
        Err(error) if error.code() != Code::Internal => return Ok(()),
        Err(error) => return Err(error),
    };
    if end < token.lsn {
        return Err(ApiError::new(Code::InvalidToken, "the token names a position that the log has not reached"));
    }
    if waits {
        counter!("platform_api_barriers_total").increment(1);
        barrier.fetch_max(end.get(), Ordering::SeqCst);
    }
    Ok(())
}

fn refuse(verdict: &Verdict, token: Token) -> ApiError {
    let position = verdict.seen.checkpoint.as_ref().map_or(Lsn::ZERO, |checkpoint| checkpoint.watermark);
    let behind = format!("the mirror is at {position}, the token asks for {}", token.lsn);
    if let Some(why) = &verdict.down {
        counter!("platform_api_pipeline_down_total").increment(1);
        return ApiError::new(Code::PipelineDown, format!("{why}; {behind}")).retry_after(DOWN_RETRY_AFTER_S);
    }
    counter!("platform_api_replica_behind_total").increment(1);
    let detail = format!("{behind}; waited {} ms", verdict.waited.as_millis());
    ApiError::new(Code::ReplicaBehind, detail).retry_after(1)
}

/// The headers that say how fresh an answer is; none before the first load.
pub(super) fn freshness(seen: &Seen) -> Vec<(&'static str, String)> {
    let Some(checkpoint) = &seen.checkpoint else { return Vec::new() };
    vec![
        ("x-data-as-of", format_moment(checkpoint.committed_at)),
        ("x-data-as-of-lsn", checkpoint.watermark.to_string()),
        ("x-replication-lag-ms", seen.lag_ms(Utc::now()).unwrap_or_default().to_string()),
    ]
}

/// Refuses when a table that is about to be read cannot answer rightly.
///
/// # Errors
/// 503 with the table's state and reason.
pub(super) fn check_tables(seen: &Seen, tables: &[String]) -> ApiResult<()> {
    let watermark = seen.checkpoint.as_ref().map_or(Lsn::ZERO, |checkpoint| checkpoint.watermark);
    for table in tables {
        let Some(state) = seen.tables.get(table) else { continue };
        let what = match state.state.as_str() {
            word @ ("wanted" | "loading" | "halted" | "left") if state.reason.is_empty() => word.to_owned(),
            word @ ("wanted" | "loading" | "halted" | "left") => format!("{word}: {}", state.reason),
            // A load is complete when the changes that ran beside it are applied too.
            _ if state.snapshot > watermark => "loaded, and the changes since its load are being applied".to_owned(),
            _ => continue,
        };
        return Err(ApiError::new(Code::TableUnavailable, format!("table {table} is {what}")).retry_after(5));
    }
    Ok(())
}

/// Rows of the tables that wait in the dead letters: an answer lacks them.
pub(super) fn parked_rows(seen: &Seen, tables: &[String]) -> u64 {
    tables.iter().filter_map(|table| seen.tables.get(table)).map(|state| state.parked).sum()
}
