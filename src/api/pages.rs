//! Pages for people: the start page, the OpenAPI viewer, the explanation of problem codes. Nothing comes from another host
//! and no script is inline, which the Content-Security-Policy of every page enforces.

use std::fmt::Write as _;
use std::sync::Arc;

use actix_web::http::header;
use actix_web::web::Path;
use actix_web::{HttpRequest, HttpResponse, get};
use utoipa_swagger_ui::Config;

use super::health;
use super::pipeline::{self, Pipeline};
use super::problem::{ApiError, ApiResult, Code};
use super::query::Query;
use super::state::State;

const PAGE_POLICY: &str =
    "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// Swagger UI sets styles from its script; `connect-src 'self'` keeps it from asking any other host.
const DOCS_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
    font-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const CSS: &str = include_str!("../../assets/start.css");

/// The start page: the state of the parts, and links.
///
/// # Errors
/// 400 for parameters.
#[get("/")]
pub(crate) async fn start_page(state: State, request: HttpRequest) -> ApiResult<HttpResponse> {
    Query::none(&request)?;
    let (checks, pipeline) = tokio::join!(health::checks(&state), pipeline::read(&state.shared));
    let mut rows = String::new();
    for check in checks.iter().filter(|check| check.name != "drain") {
        let name = if check.name == "postgres" { "PostgreSQL" } else { "ClickHouse" };
        let detail = format!("{}, {} ms", check.detail, check.elapsed_ms);
        row(&mut rows, name, if check.ok { "ok" } else { "bad" }, if check.ok { "up" } else { "down" }, &detail);
    }
    pipeline_rows(&mut rows, &pipeline);
    Ok(page("platform", &start_body(&rows, request.connection_info().host())))
}

fn pipeline_rows(rows: &mut String, pipeline: &Pipeline) {
    match &pipeline.checkpoint {
        Some(checkpoint) if checkpoint.batch == 0 => {
            row(rows, "Sink", "ok", "loaded", "no event has come since the load");
        }
        Some(checkpoint) => {
            let fresh = checkpoint.lag_ms < 10_000;
            let detail = format!(
                "applied up to {} ({}), {:.1} s ago",
                checkpoint.watermark_lsn,
                checkpoint.as_of,
                std::time::Duration::from_millis(checkpoint.lag_ms.unsigned_abs()).as_secs_f64()
            );
            row(rows, "Sink", if fresh { "ok" } else { "bad" }, if fresh { "following" } else { "behind" }, &detail);
        }
        None => row(rows, "Sink", "unknown", "not started", "nothing has been loaded into ClickHouse yet"),
    }
    match &pipeline.connector {
        Some(connector) => {
            let running = connector.state == "RUNNING" && connector.tasks.iter().all(|task| task == "RUNNING");
            let tasks = if connector.tasks.is_empty() { "none".to_owned() } else { connector.tasks.join(", ") };
            row(
                rows,
                "Connector",
                if running { "ok" } else { "bad" },
                &connector.state.to_lowercase(),
                &format!("tasks: {tasks}"),
            );
        }
        None => row(rows, "Connector", "unknown", "unknown", "connect.url is not set here"),
    }
    for table in &pipeline.tables {
        let class = if matches!(table.state.as_str(), "loading" | "halted") { "bad" } else { "ok" };
        row(rows, &format!("Table {}", table.table), class, &table.state, &table.reason);
    }
}

fn row(rows: &mut String, name: &str, class: &str, state: &str, detail: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(
        rows,
        "<tr><th scope=\"row\">{}</th><td class=\"{class}\">{}</td><td>{}</td></tr>",
        escape(name),
        escape(state),
        escape(detail)
    );
}

fn start_body(rows: &str, host: &str) -> String {
    let host = escape(host);
    format!(
        "<h1>platform</h1>\n<p>Posts in PostgreSQL, mirrored exactly into ClickHouse, behind one API.</p>\n\
         <h2>State</h2>\n<table>\n{rows}</table>\n\
         <h2>Links</h2>\n<ul>\n\
         <li><a href=\"/docs/\">API documentation</a>, from <a href=\"/openapi.json\">openapi.json</a></li>\n\
         <li><a href=\"/readyz?verbose\">readiness</a>, <a href=\"/livez\">liveness</a>, <a href=\"/metrics\">metrics</a>, \
         <a href=\"/v1/version\">version</a></li>\n\
         <li><a href=\"/problems\">problem codes</a></li>\n</ul>\n\
         <h2>Try it</h2>\n<pre>curl -H \"Authorization: Bearer $PLATFORM_API_KEY\" \\\n  \
         \"http://{host}/v1/analytics/summary?from=2014-01-01&amp;to=2014-04-01\"</pre>\n\
         <footer>platform {}. This page shows the state at its loading.</footer>",
        env!("CARGO_PKG_VERSION")
    )
}

fn page(title: &str, body: &str) -> HttpResponse {
    let html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{}</title>\n\
         <link rel=\"stylesheet\" href=\"/assets/start.css\">\n</head>\n<body>\n{body}\n</body>\n</html>\n",
        escape(title)
    );
    HttpResponse::Ok()
        .content_type("text/html; charset=utf-8")
        .insert_header((header::CONTENT_SECURITY_POLICY, PAGE_POLICY))
        .body(html)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}

/// The start page's style.
#[get("/assets/start.css")]
pub(crate) async fn style() -> HttpResponse {
    HttpResponse::Ok()
        .content_type("text/css; charset=utf-8")
        .insert_header((header::CACHE_CONTROL, "public, max-age=300"))
        .body(CSS)
}

/// `/docs` without its slash.
#[get("/docs")]
pub(crate) async fn docs_root() -> HttpResponse {
    HttpResponse::PermanentRedirect().insert_header((header::LOCATION, "/docs/")).finish()
}

/// The OpenAPI viewer (Swagger UI, compiled in).
///
/// # Errors
/// 404 for a file that it does not have.
#[get("/docs/{file:.*}")]
pub(crate) async fn docs(file: Path<String>) -> ApiResult<HttpResponse> {
    // "none" switches off the badge that would send the document to a public validator.
    let config =
        Config::from("/openapi.json").validator_url("none").try_it_out_enabled(true).display_request_duration(true);
    let served = utoipa_swagger_ui::serve(&file, Arc::new(config)).map_err(ApiError::internal)?;
    let served = served.ok_or_else(|| ApiError::new(Code::NotFound, "the viewer has no such file"))?;
    let mut response = HttpResponse::Ok();
    response
        .content_type(served.content_type)
        .insert_header((header::CONTENT_SECURITY_POLICY, DOCS_POLICY))
        .insert_header((header::CACHE_CONTROL, "public, max-age=300"));
    if served.gzpipped {
        response.insert_header((header::CONTENT_ENCODING, "gzip"));
    }
    Ok(response.body(served.bytes.into_owned()))
}

/// All problem codes.
#[get("/problems")]
pub(crate) async fn problems() -> HttpResponse {
    let mut rows = String::new();
    for code in Code::ALL {
        let name = code.as_str();
        let _ = writeln!(
            rows,
            "<tr><td>{}</td><th scope=\"row\"><a href=\"/problems/{name}\"><code>{name}</code></a></th><td>{}</td></tr>",
            code.status().as_u16(),
            escape(code.title())
        );
    }
    page("Problem codes", &format!("<h1>Problem codes</h1>\n<table>\n{rows}</table>"))
}

/// What a problem code means: the page that `type` of a problem names.
///
/// # Errors
/// 404 for a code that does not exist.
#[get("/problems/{code}")]
pub(crate) async fn problem(code: Path<String>) -> ApiResult<HttpResponse> {
    let found = Code::ALL.iter().find(|known| known.as_str() == *code);
    let code = found.ok_or_else(|| ApiError::new(Code::NotFound, "there is no such problem code"))?;
    let body = format!(
        "<h1><code>{}</code></h1>\n<p>{} (HTTP {}).</p>\n<p>{}</p>\n<p><a href=\"/problems\">All codes</a></p>",
        code.as_str(),
        escape(code.title()),
        code.status().as_u16(),
        escape(code.help())
    );
    Ok(page(code.as_str(), &body))
}
