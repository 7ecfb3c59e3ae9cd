//! `GET /v1/pipeline/lag`: how far behind the mirror was, over time.

use actix_web::{HttpRequest, HttpResponse, get};
use serde::Serialize;
use utoipa::ToSchema;

use super::auth::{Caller, Read};
use super::conditions::negotiate;
use super::problem::{ApiResult, Problem};
use super::query::Query;
use super::state::State;
use crate::catalog::endpoint_parameter::format_moment;
use crate::store::lag_history;

/// Ranges with their seconds, and the seconds of one point: at most 360 points each.
const RANGES: [(&str, u32, u32); 5] =
    [("15m", 900, 10), ("1h", 3_600, 10), ("6h", 21_600, 60), ("24h", 86_400, 300), ("7d", 604_800, 1_800)];

/// The lag over time.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LagHistory {
    /// The range that was asked for.
    pub range: &'static str,
    /// Seconds of one point.
    pub step_s: u32,
    /// The oldest first; a point without samples is left out: no sink was running.
    pub points: Vec<LagPoint>,
}

/// The greatest lag within a step.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LagPoint {
    /// The step's first moment.
    #[schema(format = "date-time")]
    pub time: String,
    /// Milliseconds from the newest applied commit; heartbeats keep it at about a second while nothing else happens.
    pub lag_ms: i64,
    /// Bytes of PostgreSQL's log that are not applied.
    pub lag_bytes: u64,
    /// Bytes of log that PostgreSQL keeps for the connector.
    pub retained_bytes: u64,
}

/// How far behind the mirror was.
#[utoipa::path(
    tag = "pipeline",
    params(("range" = Option<String>, Query, pattern = "^(15m|1h|6h|24h|7d)$", description = "15m, 1h (without), 6h, 24h or 7d: how far back")),
    responses(
        (status = 200, body = LagHistory), (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 406, body = Problem), (status = 503, body = Problem), (status = 504, body = Problem),
    )
)]
#[get("/pipeline/lag")]
pub(crate) async fn get_lag(state: State, _caller: Caller<Read>, request: HttpRequest) -> ApiResult<HttpResponse> {
    negotiate(&request, &["application/json"])?;
    let mut query = Query::of(&request)?;
    let word = query.word("range", &RANGES.map(|(word, ..)| word)).unwrap_or("1h");
    query.finish()?;
    let (range, seconds, step_s) = RANGES.into_iter().find(|(known, ..)| *known == word).unwrap_or(("1h", 3_600, 10));
    let history = lag_history::read(&state.clickhouse, &state.shared.pipeline, seconds, step_s).await?;
    let point = |sample: lag_history::Sample| LagPoint {
        time: format_moment(sample.at),
        lag_ms: sample.lag_ms,
        lag_bytes: sample.lag_bytes,
        retained_bytes: sample.retained_bytes,
    };
    Ok(HttpResponse::Ok().json(LagHistory { range, step_s, points: history.into_iter().map(point).collect() }))
}
