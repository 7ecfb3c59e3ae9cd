//! What every request goes through: its id, HEAD as GET, problem bodies, security headers, metrics and the access log.

use std::time::Instant;

use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::error::InternalError;
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::Next;
use actix_web::{Error, HttpResponse};
use metrics::{counter, histogram};
use uuid::Uuid;

use super::problem::{ApiError, Code};

/// The header that names a request in answers and logs.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

const SECURITY_HEADERS: [(HeaderName, &str); 5] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'; base-uri 'none'"),
    (header::CACHE_CONTROL, "private, no-cache"),
];

/// Wraps a request and its answer. Runs outermost, so that nothing leaves without it.
///
/// # Errors
/// What fails outside of handlers, with its problem body as the answer.
pub(super) async fn envelope<B: MessageBody + 'static>(
    mut request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    let began = Instant::now();
    let id = request_id(request.headers());
    let method = request.method().clone();
    let path = request.path().to_owned();
    if method == Method::HEAD {
        // The answer to HEAD is that to GET; the encoder remembers what was asked and sends no body.
        request.head_mut().method = Method::GET;
    }
    let mut response = match next.call(request).await {
        Ok(response) if response.status().is_client_error() || response.status().is_server_error() => {
            problem_of(response, &path, &id)
        }
        Ok(response) => response.map_into_left_body(),
        Err(error) => {
            // No handler's error: those are responses already. Without the request, so only the answer can be made.
            let mut answer = as_problem(&error, &path, &id);
            finish_headers(answer.headers_mut(), &id);
            return Err(InternalError::from_response(error, answer).into());
        }
    };
    let route = response.request().match_pattern().unwrap_or_else(|| "unmatched".to_owned());
    finish_headers(response.headers_mut(), &id);
    let status = response.status();
    let seconds = began.elapsed().as_secs_f64();
    histogram!("platform_api_request_duration_seconds", "route" => route, "method" => known_method(&method),
        "status" => status.as_u16().to_string())
    .record(seconds);
    tracing::debug!(request_id = %id, %method, %path, status = status.as_u16(), elapsed_ms = seconds * 1000.0, "request");
    Ok(response)
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
    id: &str,
) -> ServiceResponse<EitherBody<B>> {
    let Some(error) = response.response().error() else { return response.map_into_left_body() };
    let answer = as_problem(error, path, id);
    let (request, _) = response.into_parts();
    ServiceResponse::new(request, answer.map_into_right_body())
}

fn as_problem(error: &Error, path: &str, id: &str) -> HttpResponse {
    let foreign;
    let problem = match error.as_error::<ApiError>() {
        Some(problem) => problem,
        None => {
            foreign = foreign_problem(error);
            &foreign
        }
    };
    counter!("platform_api_problems_total", "code" => problem.code().as_str()).increment(1);
    let status = problem.code().status();
    if status == StatusCode::INTERNAL_SERVER_ERROR {
        tracing::error!(request_id = id, code = problem.code().as_str(), cause = problem.cause(), "request failed");
    } else if status.is_server_error() {
        tracing::warn!(request_id = id, code = problem.code().as_str(), cause = problem.cause(), "request failed");
    }
    problem.respond(path, id)
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

fn finish_headers(headers: &mut HeaderMap, id: &str) {
    if let Ok(value) = HeaderValue::from_str(id) {
        headers.insert(REQUEST_ID, value);
    }
    for (name, value) in SECURITY_HEADERS {
        if !headers.contains_key(&name) {
            headers.insert(name, HeaderValue::from_static(value));
        }
    }
}

/// Methods as labels: a client cannot make new ones.
fn known_method(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}
