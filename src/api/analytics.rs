//! `GET /v1/analytics/{name}`: one SQL file an endpoint, on ClickHouse.

use actix_web::dev::{AppService, HttpServiceFactory};
use actix_web::web::Path;
use actix_web::{HttpRequest, HttpResponse, get};
use tokio::time::Instant;
use utoipa::openapi::{Paths, RefOr, Schema};
use utoipa::{PartialSchema as _, ToSchema as _};
use utoipa_actix_web::OpenApiFactory;

use super::auth::{Caller, Read};
use super::conditions::negotiate;
use super::consistency::{self, Gate};
use super::problem::{ApiError, ApiResult, Code};
use super::query::Query;
use super::results::{self, Format, ResultSet};
use super::state::{State, Worker};
use crate::catalog::endpoint::Endpoint;
use crate::catalog::endpoint_parameter::Presence;

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
    answer(&state, endpoint, &values, format, &gate).await
}

/// `format=`, else `Accept`.
fn read_format(request: &HttpRequest, query: &mut Query) -> ApiResult<Format> {
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

async fn answer(
    state: &Worker,
    endpoint: &Endpoint,
    values: &[(&str, Option<String>)],
    format: Format,
    gate: &Gate,
) -> ApiResult<HttpResponse> {
    let parameters: Vec<(&str, Option<&str>)> = values.iter().map(|(name, value)| (*name, value.as_deref())).collect();
    let began = Instant::now();
    let bytes = results::select(&state.shared.clickhouse, &endpoint.sql, &parameters, format).await?;
    let mut response = HttpResponse::Ok();
    for (name, value) in consistency::freshness(&gate.seen) {
        response.insert_header((name, value));
    }
    let parked = consistency::parked_rows(&gate.seen, &endpoint.tables);
    if parked > 0 {
        response.insert_header(("x-data-parked-rows", parked.to_string()));
    }
    if let Some(applied) = &gate.applied {
        response.insert_header(("preference-applied", applied.as_str()));
    }
    if format == Format::Json {
        return Ok(response.json(results::result_set(&bytes, began.elapsed())?));
    }
    Ok(response.content_type(format.media_type()).body(bytes))
}
