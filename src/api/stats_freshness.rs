//! `GET /v1/stats/freshness`: how old what analytics and statistics show is.

use actix_web::{HttpRequest, HttpResponse, get};
use chrono::Utc;
use serde::Serialize;
use utoipa::ToSchema;

use super::auth::{Caller, Read};
use super::conditions::negotiate;
use super::problem::{ApiResult, Problem};
use super::query::Query;
use super::state::State;
use crate::catalog::endpoint_parameter::format_moment;
use crate::store::day_states;

/// How old what is shown is.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct FreshnessReport {
    /// Everything committed below this position of PostgreSQL's log is in the tables; null before the first load.
    #[schema(required = true, example = "0/1A2B3C8")]
    pub watermark_lsn: Option<String>,
    /// Commit time of the newest applied change.
    #[schema(required = true, format = "date-time")]
    pub as_of: Option<String>,
    /// Milliseconds since then.
    #[schema(required = true)]
    pub lag_ms: Option<i64>,
    /// The mirrored tables.
    pub tables: Vec<TableFreshness>,
    /// The statistics that are built day by day.
    pub aggregates: Vec<AggregateFreshness>,
}

/// A mirrored table.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TableFreshness {
    /// Its name in `analytics`.
    #[schema(example = "sentiment_social")]
    pub table: String,
    /// What it is doing; only `live` ones answer.
    #[schema(example = "live")]
    pub state: String,
    /// Whether everything below the watermark is in it: it is live, and the changes since its load are applied.
    pub complete: bool,
    /// Rows that could not be applied.
    pub parked_rows: u64,
}

/// An aggregate.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AggregateFreshness {
    /// Its name: the table is `analytics.NAME`.
    #[schema(example = "sentiment_daily")]
    pub aggregate: String,
    /// The mirrored table that it is made of.
    #[schema(example = "sentiment_social")]
    pub table: String,
    /// Days that have a build.
    pub built_days: u64,
    /// Days whose rows have changed since their build, or that were never built although they have changed.
    pub dirty_days: u64,
    /// When the oldest of these changes was noted; null when there is none.
    #[schema(required = true, format = "date-time")]
    pub oldest_mark: Option<String>,
    /// When the newest build was made.
    #[schema(required = true, format = "date-time")]
    pub newest_build: Option<String>,
}

/// How old what analytics and statistics show is: the mirrored tables, and the days that were built.
#[utoipa::path(
    tag = "statistics",
    responses(
        (status = 200, body = FreshnessReport),
        (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem), (status = 406, body = Problem),
        (status = 503, body = Problem), (status = 504, body = Problem),
    )
)]
#[get("/stats/freshness")]
pub(crate) async fn get_freshness(
    state: State,
    _caller: Caller<Read>,
    request: HttpRequest,
) -> ApiResult<HttpResponse> {
    Query::none(&request)?;
    negotiate(&request, &["application/json"])?;
    let shared = &state.shared;
    let seen = shared.replica.last();
    let watermark = seen.checkpoint.as_ref().map(|checkpoint| checkpoint.watermark);
    let tables = seen.tables.iter().map(|(table, known)| TableFreshness {
        table: table.clone(),
        state: known.state.clone(),
        complete: known.state == "live" && watermark.is_some_and(|watermark| watermark >= known.snapshot),
        parked_rows: known.parked,
    });
    let mut aggregates = Vec::new();
    for aggregate in &shared.aggregates {
        let known = day_states::freshness(&state.clickhouse, aggregate).await?;
        aggregates.push(AggregateFreshness {
            aggregate: aggregate.name.clone(),
            table: aggregate.table.mirror_name(),
            built_days: known.built,
            dirty_days: known.dirty,
            oldest_mark: known.oldest_mark.map(format_moment),
            newest_build: known.newest_build.map(format_moment),
        });
    }
    Ok(HttpResponse::Ok().json(FreshnessReport {
        watermark_lsn: watermark.map(|watermark| watermark.to_string()),
        as_of: seen.checkpoint.as_ref().map(|checkpoint| format_moment(checkpoint.committed_at)),
        lag_ms: seen.lag_ms(Utc::now()),
        tables: tables.collect(),
        aggregates,
    }))
}
