//! `GET /v1/stats/daily`: statistics by day, as they were built where nothing has changed since, from the mirror elsewhere.

use actix_web::{HttpRequest, HttpResponse, get};
use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;

use super::analytics::{self, Owned, Subject, owned, read_format, read_parameters, reply};
use super::answers::{Computed, Key, Question};
use super::auth::{Caller, Read};
use super::consistency::{self, Gate};
use super::post::Label;
use super::problem::{ApiError, ApiResult, Code, Problem};
use super::query::Query;
use super::results::{self, ColumnMeta, Format, Rows, Statistics};
use super::state::{State, Worker};
use super::stats_days::Plan;
use crate::catalog::Aggregate;
use crate::catalog::endpoint_parameter::format_moment;
use crate::domain::Lsn;
use crate::store::clickhouse::ClickHouse;

/// The aggregate that this resource serves.
const AGGREGATE: &str = "sentiment_daily";

/// Where the days may come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToSchema)]
#[schema(rename_all = "lowercase")]
pub(super) enum Freshness {
    /// Changed and unbuilt days from the mirror.
    Hybrid,
    /// Every day as it was built.
    Precomputed,
}

impl Freshness {
    fn word(self) -> &'static str {
        match self {
            Self::Hybrid => "hybrid",
            Self::Precomputed => "precomputed",
        }
    }
}

/// Where a day's rows come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Source {
    /// They were built.
    Build,
    /// They were computed for this answer.
    Live,
}

/// A day of the answer.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct Day {
    /// The day, in UTC.
    #[schema(example = "2014-01-01")]
    pub day: String,
    /// Where its rows come from.
    pub source: Source,
    /// Whether its rows have changed since they were built, or were never built.
    pub dirty: bool,
    /// Position of PostgreSQL's log: everything committed below is in the day's rows; null for a computed day before the first load.
    #[schema(required = true, example = "0/1A2B3C8")]
    pub as_of_lsn: Option<String>,
    /// The build that the day has, also when its rows were computed; null when it has none.
    #[schema(required = true, format = "uuid")]
    pub build_id: Option<String>,
    /// When that was made.
    #[schema(required = true, format = "date-time")]
    pub built_at: Option<String>,
    /// Posts that went into it.
    #[schema(required = true)]
    pub rows_in: Option<u64>,
    /// Rows that came out.
    #[schema(required = true)]
    pub rows_out: Option<u64>,
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
    /// The days of the span that were built or have rows, in order.
    pub days: Vec<Day>,
}

/// Daily statistics of posts.
///
/// One row a day, platform, topic, language and label: posts, authors (exact), mean, least, greatest and median score, sums of
/// likes, replies and shares. They are built day by day; a day whose posts have changed since its build, or that was not built, is
/// computed from the mirror, so that the answer is as exact and as fresh as /v1/analytics. `days` says of each day where its rows
/// come from and what they have seen. `freshness=precomputed` gives every day as it was built, and takes no consistency token.
#[utoipa::path(
    tag = "statistics",
    params(
        ("from" = String, Query, description = "First day, in UTC", format = Date),
        ("to" = String, Query, description = "The day after the last one", format = Date),
        ("platform" = Option<String>, Query, description = "Only this platform"),
        ("topic" = Option<String>, Query, description = "Only this topic"),
        ("lang" = Option<String>, Query, description = "Only this language"),
        ("label" = Option<Label>, Query, description = "Only this sentiment label"),
        ("freshness" = inline(Option<Freshness>), Query, description = "Where the days may come from; default hybrid"),
        ("format" = inline(Option<Format>), Query, description = "Format of the answer, over `Accept`; ndjson and csv have the rows alone"),
        ("X-Consistency-Token" = Option<String>, Header, description = "Of a write: the answer has seen it"),
        ("Prefer" = Option<String>, Header, description = "`wait=N`: seconds to wait for the token, at most 30; `handling=lenient`: take what there is"),
        ("If-None-Match" = Option<String>, Header, pattern = "^(\\*|(W/)?\"[!#-~]+\"(, (W/)?\"[!#-~]+\")*)$", description = "ETag of an answer: 304 while no row has changed"),
        ("Cache-Control" = Option<String>, Header, description = "`no-cache`: compute the answer anew"),
    ),
    responses(
        (status = 200, content(
            (DailyStatistics = "application/json"), (String = "application/x-ndjson"), (String = "text/csv"),
        ), headers(
            ("ETag" = String, description = "Changes when a row of the tables does"),
            ("X-Data-As-Of-LSN" = Option<String>, description = "Everything committed below is in every day of the answer"),
            ("X-Data-As-Of" = Option<String>, description = "Commit time of the newest change that was seen; of `precomputed` when the oldest build was made"),
            ("X-Replication-Lag-Ms" = Option<String>, description = "How old that is; not of `precomputed`"),
            ("X-Data-Stale" = Option<String>, description = "`true` when the token's write is not in the answer"),
        )),
        (status = 304, description = "No row has changed"),
        (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem), (status = 406, body = Problem),
        (status = 409, body = Problem, description = "other-log"),
        (status = 422, body = Problem, description = "result-too-large"), (status = 503, body = Problem), (status = 504, body = Problem),
    )
)]
#[get("/stats/daily")]
pub(crate) async fn get_daily(state: State, _caller: Caller<Read>, request: HttpRequest) -> ApiResult<HttpResponse> {
    let shared = &state.shared;
    let aggregate = shared.aggregates.iter().find(|aggregate| aggregate.name == AGGREGATE).cloned();
    let aggregate = aggregate
        .ok_or_else(|| ApiError::new(Code::NotFound, format!("etl.aggregates_dir has no aggregate {AGGREGATE}")))?;
    let mut query = Query::of(&request)?;
    let format = read_format(&request, &mut query)?;
    let known = [Freshness::Hybrid, Freshness::Precomputed];
    let word = query.word("freshness", &known.map(Freshness::word));
    let freshness = known.into_iter().find(|known| Some(known.word()) == word).unwrap_or(Freshness::Hybrid);
    let values = read_parameters(&shared.daily, &mut query);
    query.finish()?;
    let gate = gate(&state, &request, freshness).await?;
    let mut tables = shared.daily.tables.clone();
    if freshness == Freshness::Hybrid {
        tables.push(aggregate.table.mirror_name());
    }
    consistency::check_tables(&gate.seen, &tables)?;
    let mut parameters: Vec<(&str, Option<&str>)> =
        values.iter().map(|(name, value)| (*name, value.as_deref())).collect();
    parameters.push(("freshness", Some(freshness.word())));
    let question = Question::new(&shared.daily.sql, &parameters, format);
    let version = gate.seen.version_of(&tables).zip(gate.seen.version_of_builds());
    let key = version.map(|(rows, builds)| Key { question, version: rows ^ builds.rotate_left(1) });
    let headers = if freshness == Freshness::Hybrid { consistency::freshness(&gate.seen) } else { Vec::new() };
    let work = Work {
        clickhouse: shared.clickhouse_of_answers.clone(),
        aggregate,
        sql: shared.daily.sql.clone(),
        parameters: owned(&values),
        freshness,
        format,
        watermark: gate.seen.checkpoint.as_ref().map(|checkpoint| checkpoint.watermark),
    };
    let subject = Subject { gate: &gate, tables: &tables, freshness: headers, format };
    reply(&state, &request, &subject, key, work.compute()).await
}

async fn gate(state: &Worker, request: &HttpRequest, freshness: Freshness) -> ApiResult<Gate> {
    if freshness == Freshness::Precomputed && consistency::token(request.headers())?.is_some() {
        let text = "precomputed statistics show what their builds had seen; freshness=hybrid takes tokens";
        return Err(ApiError::new(Code::TokenNotSupported, text));
    }
    consistency::gate(state, request).await
}

/// Everything that an answer is computed from; it outlives the request that came first.
struct Work {
    clickhouse: ClickHouse,
    aggregate: Aggregate,
    sql: String,
    parameters: Owned,
    freshness: Freshness,
    format: Format,
    /// What the mirror had at least seen when the work began.
    watermark: Option<Lsn>,
}

impl Work {
    async fn compute(mut self) -> ApiResult<Computed> {
        let value = |wanted: &str| {
            let found = self.parameters.iter().find(|(name, _)| name == wanted).and_then(|(_, value)| value.clone());
            found.ok_or_else(|| ApiError::internal("the statement has no span"))
        };
        let (from, to) = (value("from")?, value("to")?);
        let began = Instant::now();
        // The builds first: rows that a build replaces in between are then newer than claimed, never older.
        let plan = match self.freshness {
            Freshness::Hybrid => Plan::hybrid(&self.clickhouse, &self.aggregate, &from, &to).await?,
            Freshness::Precomputed => Plan::of_builds(&self.clickhouse, &self.aggregate, &from, &to).await?,
        };
        let (source, more) = plan.source(&self.aggregate, &from);
        let sql = self.sql.replace(&format!("analytics.{AGGREGATE}"), &source);
        self.parameters.extend(more.into_iter().map(|(name, value)| (name, Some(value))));
        let bytes = analytics::select(&self.clickhouse, &sql, &self.parameters, self.format).await?;
        let days = self.days(&plan);
        let headers = self.headers(&plan);
        if self.format != Format::Json {
            return Ok(Computed { body: bytes, headers });
        }
        let set = results::result_set(&bytes, began.elapsed())?;
        let statistics =
            DailyStatistics { meta: set.meta, data: set.data, rows: set.rows, statistics: set.statistics, days };
        let body = serde_json::to_vec(&statistics).map_err(ApiError::internal)?.into();
        Ok(Computed { body, headers })
    }

    fn days(&self, plan: &Plan) -> Vec<Day> {
        let mut days: Vec<_> = plan.states.builds.keys().chain(&plan.live).copied().collect();
        days.sort_unstable();
        days.dedup();
        let day = |day| {
            let build = plan.states.builds.get(&day);
            let live = plan.live.contains(&day);
            let as_of = if live { self.watermark } else { build.map(|build| build.as_of_lsn) };
            Day {
                day: day.to_string(),
                source: if live { Source::Live } else { Source::Build },
                dirty: !plan.states.is_clean(day),
                as_of_lsn: as_of.map(|lsn| lsn.to_string()),
                build_id: build.map(|build| build.build_id.clone()),
                built_at: build.map(|build| format_moment(build.built_at)),
                rows_in: build.map(|build| build.rows_in),
                rows_out: build.map(|build| build.rows_out),
            }
        };
        days.into_iter().map(day).collect()
    }

    /// What precomputed days have seen is what their builds had; the freshness of others is that of the mirror.
    fn headers(&self, plan: &Plan) -> Vec<(&'static str, String)> {
        if self.freshness == Freshness::Hybrid {
            return Vec::new();
        }
        let builds = plan.states.builds.values();
        let least = builds.clone().map(|build| build.as_of_lsn).min().map(|lsn| ("x-data-as-of-lsn", lsn.to_string()));
        let oldest = builds.map(|build| build.built_at).min().map(|at| ("x-data-as-of", format_moment(at)));
        least.into_iter().chain(oldest).collect()
    }
}
