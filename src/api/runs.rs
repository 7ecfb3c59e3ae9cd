//! `/v1/etl/runs` and `/v1/reconciliations`: the history of the batch half, and asking for more.

use actix_web::web::{Path, Payload};
use actix_web::{HttpRequest, HttpResponse, get, post};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::auth::{Admin, Caller, Read};
use super::body;
use super::conditions::negotiate;
use super::keyset::Keyset;
use super::problem::{ApiError, ApiResult, Code, FieldError, Problem};
use super::query::Query;
use super::requests::{PipelineRequest, submit};
use super::state::State;
use crate::catalog::endpoint_parameter::format_moment;
use crate::domain::RunDate;
use crate::store::runs::{self, RunFilter, StoredRun};

const JSON: &str = "application/json";
const LIMIT_DEFAULT: u32 = 50;
const LIMIT_MAX: u32 = 200;
/// Days that one request may ask for.
const DAYS_MAX: i64 = 366;

/// One run of a job.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Run {
    /// Its id.
    #[schema(format = "uuid")]
    pub id: String,
    /// The job: `etl:` with the aggregate's name, or `verify`.
    #[schema(example = "etl:sentiment_daily")]
    pub job: String,
    /// What it worked on: a day, or a table.
    #[schema(example = "2014-01-01")]
    pub bucket: String,
    /// How it ended: `done`, `unchanged` or `failed`; of a comparison `equal`, `repaired`, `different` or `incomplete`. May grow.
    pub status: String,
    /// Of a comparison: what was found; null otherwise.
    #[schema(required = true, value_type = Option<Object>)]
    pub report: Option<Value>,
    /// Who called it: Airflow's variables.
    #[schema(value_type = Object)]
    pub context: Value,
    /// The build that it made.
    #[schema(required = true, format = "uuid")]
    pub build_id: Option<String>,
    /// Rows that went in.
    pub rows_in: u64,
    /// Rows that came out.
    pub rows_out: u64,
    /// Position of PostgreSQL's log that it had seen; null when it did not get so far.
    #[schema(required = true, example = "0/1A2B3C8")]
    pub as_of_lsn: Option<String>,
    /// When it began.
    #[schema(format = "date-time")]
    pub started_at: String,
    /// When it ended.
    #[schema(format = "date-time")]
    pub finished_at: String,
}

impl From<StoredRun> for Run {
    fn from(run: StoredRun) -> Self {
        // The reason of a failure may quote a database: it stays in `platform etl runs` and in the log.
        let report = if run.job == "verify" { serde_json::from_str(&run.detail).ok() } else { None };
        Self {
            id: run.id,
            job: run.job,
            bucket: run.bucket,
            status: run.status,
            report,
            context: serde_json::from_str(&run.context).unwrap_or_else(|_| json!({})),
            build_id: run.build_id,
            rows_in: run.rows_in,
            rows_out: run.rows_out,
            as_of_lsn: (run.as_of_lsn.get() > 0).then(|| run.as_of_lsn.to_string()),
            started_at: format_moment(run.started_at),
            finished_at: format_moment(run.finished_at),
        }
    }
}

/// A page of runs.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RunPage {
    /// The newest first.
    pub items: Vec<Run>,
    /// Cursor of the next page; null on the last one.
    #[schema(required = true)]
    pub next: Option<String>,
}

/// Which days to build. Exactly one of `date`, or `from` and `to`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EtlOrder {
    /// One day, in UTC.
    #[schema(format = "date", example = "2014-01-01")]
    pub date: Option<String>,
    /// The first day.
    #[schema(format = "date")]
    pub from: Option<String>,
    /// The last day.
    #[schema(format = "date")]
    pub to: Option<String>,
    /// Only this aggregate.
    pub aggregate: Option<String>,
    /// Build although nothing has changed.
    #[serde(default)]
    pub force: bool,
}

/// What to compare.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct VerifyOrder {
    /// `table` or `schema.table`; every published table when there is none.
    #[serde(default)]
    pub tables: Vec<String>,
}

/// Lists runs of `platform etl`.
#[utoipa::path(
    tag = "batch",
    params(
        ("status" = Option<String>, Query, pattern = "^(done|unchanged|failed)$", description = "Only runs that ended so: done, unchanged, failed"),
        ("date" = Option<String>, Query, description = "Only this day", format = Date),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 200, description = "Runs a page; 50 without"),
        ("cursor" = Option<String>, Query, description = "`next` of the page before"),
    ),
    responses(
        (status = 200, body = RunPage), (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 406, body = Problem), (status = 503, body = Problem), (status = 504, body = Problem),
    )
)]
#[get("/etl/runs")]
pub(crate) async fn list_etl_runs(
    state: State,
    _caller: Caller<Read>,
    request: HttpRequest,
) -> ApiResult<HttpResponse> {
    negotiate(&request, &[JSON])?;
    let mut query = Query::of(&request)?;
    let status = query.word("status", &["done", "unchanged", "failed"]).unwrap_or_default();
    let date = query.parsed("date", |text| {
        text.parse::<RunDate>().map_err(|error| crate::catalog::endpoint_parameter::Refused(error.to_string()))
    });
    let bucket = date.map(|date| date.to_string()).unwrap_or_default();
    list(&state, query, RunFilter { job: "etl", status, bucket: &bucket }).await
}

/// Lists comparisons of both databases.
#[utoipa::path(
    tag = "batch",
    params(
        ("status" = Option<String>, Query, pattern = "^(equal|repaired|different|incomplete)$", description = "Only those that ended so: equal, repaired, different, incomplete"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 200, description = "Runs a page; 50 without"),
        ("cursor" = Option<String>, Query, description = "`next` of the page before"),
    ),
    responses(
        (status = 200, body = RunPage), (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 406, body = Problem), (status = 503, body = Problem), (status = 504, body = Problem),
    )
)]
#[get("/reconciliations")]
pub(crate) async fn list_reconciliations(
    state: State,
    _caller: Caller<Read>,
    request: HttpRequest,
) -> ApiResult<HttpResponse> {
    negotiate(&request, &[JSON])?;
    let mut query = Query::of(&request)?;
    let status = query.word("status", &["equal", "repaired", "different", "incomplete"]).unwrap_or_default();
    list(&state, query, RunFilter { job: "verify", status, bucket: "" }).await
}

async fn list(state: &State, mut query: Query, filter: RunFilter<'_>) -> ApiResult<HttpResponse> {
    let limit = query.number("limit", 1..=LIMIT_MAX).unwrap_or(LIMIT_DEFAULT);
    let cursor = query.text("cursor");
    query.finish()?;
    let keyset = Keyset::new(["runs", filter.job, filter.status, filter.bucket]);
    let place = cursor.map(|cursor| keyset.read(&cursor)).transpose()?;
    let after = place.as_deref().map(|place| {
        let parsed = || Some((place.first()?.parse().ok()?, place.get(1)?.as_str()));
        parsed().ok_or_else(|| ApiError::new(Code::InvalidCursor, "the cursor was not made for this list"))
    });
    let mut found = runs::list(&state.clickhouse, filter, after.transpose()?, limit.saturating_add(1)).await?;
    let more = found.len() > usize::try_from(limit)?;
    found.truncate(usize::try_from(limit)?);
    let next = found.last().filter(|_| more).map(|last| {
        let micros = last.started_at.timestamp_micros().to_string();
        keyset.write(&[&micros, &last.id])
    });
    Ok(HttpResponse::Ok().json(RunPage { items: found.into_iter().map(Run::from).collect(), next }))
}

/// One run of `platform etl`.
#[utoipa::path(
    tag = "batch",
    params(("id" = String, Path, description = "The run's id", format = Uuid)),
    responses(
        (status = 200, body = Run), (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 406, body = Problem), (status = 503, body = Problem), (status = 504, body = Problem),
    )
)]
#[get("/etl/runs/{id}")]
pub(crate) async fn get_etl_run(
    state: State,
    _caller: Caller<Read>,
    id: Path<String>,
    request: HttpRequest,
) -> ApiResult<HttpResponse> {
    one(&state, &request, &id, "etl").await
}

/// One comparison.
#[utoipa::path(
    tag = "batch",
    params(("id" = String, Path, description = "The comparison's id", format = Uuid)),
    responses(
        (status = 200, body = Run), (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 406, body = Problem), (status = 503, body = Problem), (status = 504, body = Problem),
    )
)]
#[get("/reconciliations/{id}")]
pub(crate) async fn get_reconciliation(
    state: State,
    _caller: Caller<Read>,
    id: Path<String>,
    request: HttpRequest,
) -> ApiResult<HttpResponse> {
    one(&state, &request, &id, "verify").await
}

async fn one(state: &State, request: &HttpRequest, id: &str, job: &str) -> ApiResult<HttpResponse> {
    Query::none(request)?;
    negotiate(request, &[JSON])?;
    let none = || ApiError::new(Code::NotFound, "there is no run with this id");
    let id = uuid::Uuid::try_parse(id).map_err(|_| none())?;
    let run = runs::get(&state.clickhouse, job, id).await?;
    Ok(HttpResponse::Ok().json(Run::from(run.ok_or_else(none)?)))
}

/// Has days of statistics built, by the process that runs the sink.
#[utoipa::path(
    tag = "batch",
    request_body = EtlOrder,
    params(("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255, pattern = "^[!-~]([ -~]*[!-~])?$", description = "1 to 255 characters; the same request with the same key asks once")),
    responses(
        (status = 202, body = PipelineRequest, description = "Asked", headers(("Location" = String, description = "Where to look for its end"))),
        (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem), (status = 406, body = Problem), (status = 409, body = Problem),
        (status = 413, body = Problem), (status = 415, body = Problem), (status = 422, body = Problem), (status = 503, body = Problem), (status = 504, body = Problem),
    )
)]
#[post("/etl/runs")]
pub(crate) async fn start_etl_run(
    state: State,
    caller: Caller<Admin>,
    request: HttpRequest,
    payload: Payload,
) -> ApiResult<HttpResponse> {
    let (order, body): (EtlOrder, _) = order(&state, &request, payload).await?;
    let wrong = |member: &str, detail: String| {
        ApiError::fields(Code::InvalidBody, vec![FieldError::member(member, "invalid", detail)])
    };
    let day = |member: &str, text: &str| text.parse::<RunDate>().map_err(|error| wrong(member, error.to_string()));
    let (from, to) = match (&order.date, &order.from, &order.to) {
        (Some(date), None, None) => (day("date", date)?, day("date", date)?),
        (None, Some(from), Some(to)) => (day("from", from)?, day("to", to)?),
        _ => return Err(wrong("date", "say date, or from and to".to_owned())),
    };
    if from > to {
        return Err(wrong("to", "must not be before from".to_owned()));
    }
    if (to.start() - from.start()).num_days() >= DAYS_MAX {
        return Err(wrong("to", format!("a request may ask for {DAYS_MAX} days at most")));
    }
    let arguments = json!({
        "from": from.to_string(), "to": to.to_string(), "aggregate": order.aggregate, "force": order.force,
    });
    submit(&state, &request, &caller.key_prefix, &body, "etl", &arguments).await
}

/// Has both databases compared, by the process that runs the sink.
#[utoipa::path(
    tag = "batch",
    request_body = VerifyOrder,
    params(("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255, pattern = "^[!-~]([ -~]*[!-~])?$", description = "1 to 255 characters; the same request with the same key asks once")),
    responses(
        (status = 202, body = PipelineRequest, description = "Asked", headers(("Location" = String, description = "Where to look for its end"))),
        (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem), (status = 406, body = Problem), (status = 409, body = Problem),
        (status = 413, body = Problem), (status = 415, body = Problem), (status = 422, body = Problem), (status = 503, body = Problem), (status = 504, body = Problem),
    )
)]
#[post("/reconciliations")]
pub(crate) async fn start_reconciliation(
    state: State,
    caller: Caller<Admin>,
    request: HttpRequest,
    payload: Payload,
) -> ApiResult<HttpResponse> {
    let (order, body): (VerifyOrder, _) = order(&state, &request, payload).await?;
    submit(&state, &request, &caller.key_prefix, &body, "verify", &json!({ "tables": order.tables })).await
}

async fn order<T: serde::de::DeserializeOwned>(
    state: &State,
    request: &HttpRequest,
    payload: Payload,
) -> ApiResult<(T, actix_web::web::Bytes)> {
    Query::none(request)?;
    negotiate(request, &[JSON])?;
    let body = body::read(request, payload, &[JSON], state.shared.body_limit()).await?;
    let value: Value = serde_json::from_slice(&body).map_err(|error| {
        ApiError::new(Code::InvalidJson, format!("line {} column {}", error.line(), error.column()))
    })?;
    let order = serde_json::from_value(value)
        .map_err(|error| ApiError::new(Code::InvalidBody, format!("the body's members are wrong: {error}")))?;
    Ok((order, body))
}
