//! `GET /v1/stats/daily`: the statistics that were built, with what is known about each day's build.

use actix_web::{HttpRequest, HttpResponse, get};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use utoipa::ToSchema;

use super::analytics::read_parameters;
use super::auth::{Caller, Read};
use super::conditions::negotiate;
use super::consistency;
use super::post::Label;
use super::problem::{ApiError, ApiResult, Code, Problem};
use super::query::Query;
use super::results::{self, ColumnMeta, Format, Rows, Statistics};
use super::state::State;
use crate::catalog::endpoint_parameter::format_moment;
use crate::domain::Lsn;
use crate::store::checkpoint::{parse_time, text};

/// The aggregate that this resource serves.
const AGGREGATE: &str = "sentiment_daily";

/// One day's build.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct Build {
    /// The day, in UTC.
    #[schema(example = "2014-01-01")]
    pub day: String,
    /// Every row of the day is of this build.
    #[schema(format = "uuid")]
    pub build_id: String,
    /// Position of PostgreSQL's log that the build had seen.
    #[schema(example = "0/1A2B3C8")]
    pub as_of_lsn: String,
    /// When it was built.
    #[schema(format = "date-time")]
    pub built_at: String,
    /// Posts that went in.
    pub rows_in: u64,
    /// Rows that came out.
    pub rows_out: u64,
}

/// Daily statistics.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DailyStatistics {
    /// The columns, in order.
    pub meta: Vec<ColumnMeta>,
    /// The rows, each an object with the columns' names.
    #[schema(value_type = Vec<Object>)]
    pub data: Rows,
    /// How many rows there are.
    pub rows: u64,
    /// What it cost.
    pub statistics: Statistics,
    /// The days of the span that were built, in order.
    pub builds: Vec<Build>,
}

/// Daily statistics of posts.
///
/// One row a day, platform, topic, language and label: posts, authors (exact), mean, least, greatest and median score, sums of
/// likes, replies and shares. They are built day by day; `builds` says what each day's build had seen. A day that is not
/// among the builds has not been built. A consistency token is refused here: /v1/analytics takes tokens.
#[utoipa::path(
    tag = "statistics",
    params(
        ("from" = String, Query, description = "First day, in UTC", format = Date),
        ("to" = String, Query, description = "The day after the last one", format = Date),
        ("platform" = Option<String>, Query, description = "Only this platform"),
        ("topic" = Option<String>, Query, description = "Only this topic"),
        ("lang" = Option<String>, Query, description = "Only this language"),
        ("label" = Option<Label>, Query, description = "Only this sentiment label"),
    ),
    responses(
        (status = 200, body = DailyStatistics, headers(
            ("X-Data-As-Of-LSN" = Option<String>, description = "The least position that a build of the span had seen"),
            ("X-Data-As-Of" = Option<String>, description = "When the oldest build of the span was made"),
        )),
        (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem), (status = 406, body = Problem),
        (status = 422, body = Problem, description = "result-too-large"), (status = 503, body = Problem), (status = 504, body = Problem),
    )
)]
#[get("/stats/daily")]
pub(crate) async fn get_daily(state: State, _caller: Caller<Read>, request: HttpRequest) -> ApiResult<HttpResponse> {
    negotiate(&request, &["application/json"])?;
    if consistency::token(request.headers())?.is_some() {
        return Err(ApiError::new(Code::TokenNotSupported, "statistics show what their builds had seen"));
    }
    let daily = &state.shared.daily;
    let mut query = Query::of(&request)?;
    let values = read_parameters(daily, &mut query);
    query.finish()?;
    consistency::check_tables(&state.shared.replica.last(), &daily.tables)?;
    let parameters: Vec<(&str, Option<&str>)> = values.iter().map(|(name, value)| (*name, value.as_deref())).collect();
    // The builds first: rows that a build replaces in between are then newer than claimed, never older.
    let builds = builds(&state, &parameters).await?;
    let began = Instant::now();
    let bytes = results::select(&state.shared.clickhouse, &daily.sql, &parameters, Format::Json).await?;
    let set = results::result_set(&bytes, began.elapsed())?;
    let mut response = HttpResponse::Ok();
    if let Some(least) = builds.iter().map(|(lsn, _)| *lsn).min() {
        response.insert_header(("x-data-as-of-lsn", least.to_string()));
    }
    if let Some(oldest) = builds.iter().map(|(_, build)| build.built_at.as_str()).min() {
        response.insert_header(("x-data-as-of", oldest));
    }
    let builds = builds.into_iter().map(|(_, build)| build).collect();
    Ok(response.json(DailyStatistics {
        meta: set.meta,
        data: set.data,
        rows: set.rows,
        statistics: set.statistics,
        builds,
    }))
}

async fn builds(state: &State, parameters: &[(&str, Option<&str>)]) -> ApiResult<Vec<(Lsn, Build)>> {
    #[derive(Deserialize)]
    struct Row {
        bucket: String,
        build_id: String,
        #[serde(with = "text")]
        as_of_lsn: u64,
        built_at: String,
        #[serde(with = "text")]
        rows_in: u64,
        #[serde(with = "text")]
        rows_out: u64,
    }
    let sql = "select bucket, build_id, as_of_lsn, built_at, rows_in, rows_out from platform.builds final \
               where aggregate = {aggregate:String} and bucket >= {from:Date32} and bucket < {to:Date32} order by bucket";
    let mut bound = vec![("aggregate", AGGREGATE)];
    bound.extend(
        parameters
            .iter()
            .filter(|(name, _)| matches!(*name, "from" | "to"))
            .filter_map(|(name, value)| Some((*name, (*value)?))),
    );
    let rows: Vec<Row> = state.shared.clickhouse.fetch_all(sql, &bound).await?;
    let builds = rows.into_iter().map(|row| {
        let lsn = Lsn::new(row.as_of_lsn);
        let build = Build {
            day: row.bucket,
            build_id: row.build_id,
            as_of_lsn: lsn.to_string(),
            built_at: format_moment(parse_time(&row.built_at)?),
            rows_in: row.rows_in,
            rows_out: row.rows_out,
        };
        Ok((lsn, build))
    });
    builds.collect()
}
