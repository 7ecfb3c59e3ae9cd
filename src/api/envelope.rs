//! What every request goes through: its id, HEAD as GET, problem bodies, security headers, metrics and the access log.

use std::rc::Rc;
use std::time::{Duration, Instant};

use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::error::InternalError;
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::Next;
use actix_web::{Error, HttpResponse};
use metrics::counter;
use uuid::Uuid;

use super::context::{self, Context};
use super::overload::Place;
use super::problem::{ApiError, Code};
use super::state::{State, Worker};
use super::{cors, traceparent};

/// The header that names a request in answers and logs.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

const SECURITY_HEADERS: [(HeaderName, &str); 5] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'; base-uri 'none'"),
    (header::CACHE_CONTROL, "private, no-cache"),
];

/// Longest path with its query, in bytes.
const URI_BYTES_MAX: usize = 8192;
/// What is under here can be shed; probes and pages cannot.
const SHEDDABLE: &str = "/v1/";

/// How a request is named in the log.
struct Names {
    id: String,
    /// Of the caller's `traceparent`.
    trace: Option<String>,
}

/// Wraps a request and its answer. Runs outermost, so that nothing leaves without it.
///
/// # Errors
/// What fails outside of handlers, with its problem body as the answer.
pub(super) async fn envelope<B: MessageBody + 'static>(
    mut request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    let began = Instant::now();
    let worker = request.app_data::<State>().cloned();
    let trace = traceparent::trace_id(request.headers()).map(str::to_owned);
    let names = Names { id: request_id(request.headers()), trace };
    let method = request.method().clone();
    let path = request.path().to_owned();
    if method == Method::HEAD {
        // The answer to HEAD is that to GET; the encoder remembers what was asked and sends no body.
        request.head_mut().method = Method::GET;
    }
    let context = Rc::new(Context::default());
    let place = worker.as_ref().map(|worker| admit(worker, &request)).transpose();
    let mut response = match place {
        Err(refused) => {
            let answer = respond(&refused, &path, &names).map_into_right_body();
            ServiceResponse::new(request.into_parts().0, answer)
        }
        Ok(_place) => match context::with(Rc::clone(&context), next.call(request)).await {
            Ok(response) if response.status().is_client_error() || response.status().is_server_error() => {
                problem_of(response, &path, &names)
            }
            Ok(response) => response.map_into_left_body(),
            Err(error) => {
                // No handler's error: those are responses already. Without the request, so only the answer can be made.
                let mut answer = as_problem(&error, &path, &names);
                finish_headers(answer.headers_mut(), &names, &context, began);
                return Err(InternalError::from_response(error, answer).into());
            }
        },
    };
    finish_headers(response.headers_mut(), &names, &context, began);
    let status = response.status();
    if let Some(worker) = &worker {
        let (request, answer) = (response.request().clone(), response.headers_mut());
        worker.shared.origins.apply(&method, request.headers(), answer);
        worker.durations.record(&request, &method, status, began.elapsed());
    }
    tracing::debug!(request_id = %names.id, trace_id = names.trace, %method, %path, status = status.as_u16(),
        elapsed_ms = began.elapsed().as_secs_f64() * 1000.0, "request");
    Ok(response)
}

/// Lets a request in, or says why not: it is too long, or too many are being worked on.
fn admit<'a>(worker: &'a Worker, request: &ServiceRequest) -> Result<Option<Place<'a>>, ApiError> {
    let uri = request.uri().path_and_query().map_or(0, |uri| uri.as_str().len());
    if uri > URI_BYTES_MAX {
        return Err(ApiError::new(Code::UriTooLong, format!("path and query may have {URI_BYTES_MAX} bytes")));
    }
    if !request.path().starts_with(SHEDDABLE) {
        return Ok(None);
    }
    let full = || ApiError::new(Code::Overloaded, "too many requests are being worked on").retry_after(1);
    worker.in_flight.take().map(Some).ok_or_else(full)
}

/// The client's id if it is a short plain word, else a new one.
fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
    let plain = |text: &&str| {
        (1..=128).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte))
    };
    given.filter(plain).map_or_else(|| Uuid::now_v7().to_string(), str::to_owned)
}

/// Errors get their problem body here, where path and id are known; other bodies of errors stay as they are.
fn problem_of<B: MessageBody + 'static>(
    response: ServiceResponse<B>,
    path: &str,
    names: &Names,
) -> ServiceResponse<EitherBody<B>> {
    let Some(error) = response.response().error() else { return response.map_into_left_body() };
    let answer = as_problem(error, path, names);
    let (request, _) = response.into_parts();
    ServiceResponse::new(request, answer.map_into_right_body())
}

fn as_problem(error: &Error, path: &str, names: &Names) -> HttpResponse {
    let foreign;
    let problem = match error.as_error::<ApiError>() {
        Some(problem) => problem,
        None => {
            foreign = foreign_problem(error);
            &foreign
        }
    };
    respond(problem, path, names)
}

/// The problem's body, counted and logged.
fn respond(problem: &ApiError, path: &str, names: &Names) -> HttpResponse {
    counter!("platform_api_problems_total", "code" => problem.code().as_str()).increment(1);
    let (request_id, trace_id, code) = (&names.id, names.trace.as_deref(), problem.code().as_str());
    let status = problem.code().status();
    if status == StatusCode::INTERNAL_SERVER_ERROR {
        tracing::error!(request_id, trace_id, code, cause = problem.cause(), "request failed");
    } else if status.is_server_error() {
        tracing::warn!(request_id, trace_id, code, cause = problem.cause(), "request failed");
    }
    problem.respond(path, request_id)
}

/// An error of the framework itself: its status, under the nearest code.
fn foreign_problem(error: &Error) -> ApiError {
    let status = error.as_response_error().status_code();
    let code = Code::ALL.iter().copied().find(|code| code.status() == status);
    match code {
        Some(code) if status.is_client_error() => ApiError::new(code, code.title()),
        _ if status.is_client_error() => ApiError::new(Code::BadRequest, "the request cannot be understood"),
        _ => ApiError::internal(error),
    }
}

fn finish_headers(headers: &mut HeaderMap, names: &Names, context: &Context, began: Instant) {
    if let Ok(value) = HeaderValue::from_str(&names.id) {
        headers.insert(REQUEST_ID, value);
    }
    for (name, value) in SECURITY_HEADERS {
        if !headers.contains_key(&name) {
            headers.insert(name, HeaderValue::from_static(value));
        }
    }
    cors::vary_on_encoding(headers);
    if let Some(standing) = context.standing() {
        standing.write(headers);
    }
    if let Ok(value) = HeaderValue::from_str(&timing(context.database(), began.elapsed())) {
        headers.insert(SERVER_TIMING, value);
    }
}

/// `Server-Timing`: milliseconds on databases, waiting for a connection included, and altogether.
fn timing(database: Duration, total: Duration) -> String {
    let millis = |time: Duration| (time.as_millis(), time.subsec_micros() % 1000);
    let ((total, total_part), (database, part)) = (millis(total), millis(database));
    if database == 0 && part == 0 {
        return format!("total;dur={total}.{total_part:03}");
    }
    format!("db;dur={database}.{part:03}, total;dur={total}.{total_part:03}")
}
