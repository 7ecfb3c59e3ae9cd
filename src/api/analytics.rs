//! `GET /v1/analytics/{name}`: one SQL file an endpoint, on ClickHouse.

use std::sync::Arc;

use actix_web::dev::{AppService, HttpServiceFactory};
use actix_web::http::header;
use actix_web::web::{Bytes, Path};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder, get};
use metrics::counter;
use tokio::time::Instant;
use utoipa::openapi::{Paths, RefOr, Schema};
use utoipa::{PartialSchema as _, ToSchema as _};
use utoipa_actix_web::OpenApiFactory;

use super::answers::{Computed, Key, Question, Served};
use super::auth::{Caller, Read};
use super::conditions::{CacheControl, negotiate, none_match_tags};
use super::consistency::{self, Gate};
use super::problem::{ApiError, ApiResult, Code};
use super::query::Query;
use super::results::{self, Format, ResultSet};
use super::state::{Shared, State, Worker};
use crate::catalog::endpoint::Endpoint;
use crate::catalog::endpoint_parameter::Presence;
use crate::store::clickhouse::ClickHouse;

/// The route of all endpoints of `sql/endpoints`. Each has its own entry in the OpenAPI document, added by `openapi`,
/// so this one brings only the shape of the answers.
#[derive(Debug)]
pub(super) struct Analytics;

impl HttpServiceFactory for Analytics {
    fn register(self, config: &mut AppService) {
        HttpServiceFactory::register(get_analytics, config);
    }
}

impl OpenApiFactory for Analytics {
    fn paths(&self) -> Paths {
        Paths::new()
    }

    fn schemas(&self, schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((ResultSet::name().into_owned(), ResultSet::schema()));
        ResultSet::schemas(schemas);
    }
}

#[get("/analytics/{name}")]
async fn get_analytics(
    state: State,
    _caller: Caller<Read>,
    name: Path<String>,
    request: HttpRequest,
) -> ApiResult<HttpResponse> {
    let found = state.shared.endpoints.iter().find(|endpoint| endpoint.name == *name);
    let endpoint = found.ok_or_else(|| {
        let names: Vec<&str> = state.shared.endpoints.iter().map(|endpoint| endpoint.name.as_str()).collect();
        ApiError::new(Code::NotFound, format!("the analytics endpoints are {}", names.join(", ")))
    })?;
    let mut query = Query::of(&request)?;
    let format = read_format(&request, &mut query)?;
    let values = read_parameters(endpoint, &mut query);
    query.finish()?;
    let gate = consistency::gate(&state, &request).await?;
    consistency::check_tables(&gate.seen, &endpoint.tables)?;
    let parameters: Vec<(&str, Option<&str>)> = values.iter().map(|(name, value)| (*name, value.as_deref())).collect();
    let version = gate.seen.version_of(&endpoint.tables).filter(|_| endpoint.is_pure);
    let question = Question::new(&endpoint.sql, &parameters, format);
    let key = version.map(|version| Key { question, version });
    let compute = compute(Arc::clone(&state.shared), endpoint.clone(), owned(&values), format);
    let freshness = consistency::freshness(&gate.seen);
    reply(&state, &request, &Subject { gate: &gate, tables: &endpoint.tables, freshness, format }, key, compute).await
}

/// What an answer is about.
pub(super) struct Subject<'a> {
    /// What it may claim.
    pub gate: &'a Gate,
    /// The tables that it was read from.
    pub tables: &'a [String],
    /// Headers that say how fresh it is.
    pub freshness: Vec<(&'static str, String)>,
    /// How it is written.
    pub format: Format,
}

/// Answers with what is kept, what is under way, what `compute` gives, or 304. Without a key nothing is kept.
///
/// # Errors
/// Those of `compute`.
pub(super) async fn reply<F>(
    state: &Worker,
    request: &HttpRequest,
    subject: &Subject<'_>,
    key: Option<Key>,
    compute: F,
) -> ApiResult<HttpResponse>
where
    F: Future<Output = ApiResult<Computed>> + Send + 'static,
{
    let Some(key) = key else {
        let computed = state.shared.answers.compute(compute).await?;
        let mut response = head(HttpResponse::Ok(), subject);
        return Ok(finish(&mut response, subject, computed));
    };
    let asked = CacheControl::of(request);
    let tags = none_match_tags(request)?.unwrap_or_default();
    if !asked.no_cache
        && let Some(tag) = tags.iter().find(|tag| key.is_of(tag))
    {
        counter!("platform_api_answers_total", "source" => "not_modified").increment(1);
        let mut response = head(HttpResponse::NotModified(), subject);
        return Ok(response.insert_header((header::ETAG, format!("\"{tag}\""))).finish());
    }
    let (answer, served) = state.shared.answers.get(key, asked.no_cache, compute).await?;
    if served != Served::Hit && !asked.no_store {
        state.shared.answers.keep(key, &answer);
    }
    let same = tags.iter().any(|tag| *tag == answer.tag || tag == "*");
    let mut response = head(if same { HttpResponse::NotModified() } else { HttpResponse::Ok() }, subject);
    response.insert_header((header::ETAG, format!("\"{}\"", answer.tag)));
    response.insert_header(("cache-status", served.cache_status()));
    Ok(if same { response.finish() } else { finish(&mut response, subject, answer.computed) })
}

fn head(mut response: HttpResponseBuilder, subject: &Subject<'_>) -> HttpResponseBuilder {
    for (name, value) in &subject.freshness {
        response.insert_header((*name, value.as_str()));
    }
    let gate = subject.gate;
    let parked = consistency::parked_rows(&gate.seen, subject.tables);
    if parked > 0 {
        response.insert_header(("x-data-parked-rows", parked.to_string()));
    }
    if let Some(applied) = &gate.applied {
        response.insert_header(("preference-applied", applied.as_str()));
    }
    if gate.stale {
        response.insert_header(("x-data-stale", "true"));
    }
    response
}

fn finish(response: &mut HttpResponseBuilder, subject: &Subject<'_>, computed: Computed) -> HttpResponse {
    for (name, value) in computed.headers {
        response.insert_header((name, value));
    }
    response.content_type(subject.format.media_type()).body(computed.body)
}

/// Parameters that outlive the request.
pub(super) type Owned = Vec<(String, Option<String>)>;

/// Of parameters as they were read.
pub(super) fn owned(values: &[(&str, Option<String>)]) -> Owned {
    values.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
}

async fn compute(shared: Arc<Shared>, endpoint: Endpoint, parameters: Owned, format: Format) -> ApiResult<Computed> {
    let began = Instant::now();
    let sql = shared.ranges.statement(&shared.clickhouse_of_answers, &endpoint).await?;
    let bytes = select(&shared.clickhouse_of_answers, &sql, &parameters, format).await?;
    let body = match format {
        Format::Json => {
            serde_json::to_vec(&results::result_set(&bytes, began.elapsed())?).map_err(ApiError::internal)?.into()
        }
        Format::Ndjson | Format::Csv => bytes,
    };
    Ok(Computed { body, headers: Vec::new() })
}

/// As `results::select`, with parameters of one's own.
///
/// # Errors
/// As `results::select`.
pub(super) async fn select(clickhouse: &ClickHouse, sql: &str, parameters: &Owned, format: Format) -> ApiResult<Bytes> {
    let parameters: Vec<(&str, Option<&str>)> =
        parameters.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect();
    results::select(clickhouse, sql, &parameters, format).await
}

/// `format=`, else `Accept`.
///
/// # Errors
/// 406 when neither is one of ours.
pub(super) fn read_format(request: &HttpRequest, query: &mut Query) -> ApiResult<Format> {
    if let Some(word) = query.word("format", &Format::ALL.map(Format::word)) {
        return Ok(Format::ALL.into_iter().find(|format| format.word() == word).unwrap_or(Format::Json));
    }
    let chosen = negotiate(request, &Format::ALL.map(Format::media_type))?;
    Ok(Format::ALL.into_iter().find(|format| format.media_type() == chosen).unwrap_or(Format::Json))
}

/// The value of every parameter of `endpoint`, checked and in ClickHouse's spelling; mistakes stay in `query`.
pub(super) fn read_parameters<'a>(endpoint: &'a Endpoint, query: &mut Query) -> Vec<(&'a str, Option<String>)> {
    let mut values: Vec<(&str, Option<String>)> = Vec::new();
    for parameter in &endpoint.parameters {
        let name = parameter.name.as_str();
        let Some(text) = query.text(name) else {
            match &parameter.presence {
                Presence::Required => query.refuse(name, "required", format!("is required: {}", parameter.description)),
                Presence::Optional => {}
                Presence::Default(default) => {
                    values.push((name, parameter.accept(default).ok()));
                    continue;
                }
            }
            values.push((name, None));
            continue;
        };
        match parameter.accept(&text) {
            Ok(value) => values.push((name, Some(value))),
            Err(refused) => query.refuse(name, "invalid", refused.0),
        }
    }
    let value_of = |name: &str| values.iter().find(|(known, _)| *known == name).and_then(|(_, value)| value.as_deref());
    if let Some((from, to)) = &endpoint.span
        && let (Some(first), Some(end)) = (value_of(from), value_of(to))
        && first >= end
    {
        query.refuse(to, "invalid", format!("must be later than {from}"));
    }
    values
}
