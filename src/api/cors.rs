//! Cross-origin requests of browsers: only of the origins that `api.cors_origins` names. Keys travel in a header, so no
//! credentials are ever allowed.

use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::http::{Method, Uri};

use crate::domain::Failure;

/// What scripts may read beside the few headers that they always may.
const EXPOSED: &str = "ETag, Link, Location, Idempotency-Replayed, Preference-Applied, RateLimit, RateLimit-Policy, Retry-After, \
    Server-Timing, X-Consistency-Token, X-Data-As-Of, X-Data-As-Of-LSN, X-Data-Parked-Rows, X-Replication-Lag-Ms, X-Request-Id";
/// What scripts may send.
const ACCEPTED: &str = "Accept, Authorization, Cache-Control, Content-Encoding, Content-Type, Idempotency-Key, If-Match, \
    If-None-Match, Prefer, Traceparent, X-Consistency-Token, X-Request-Id";
/// Seconds that a browser may remember a preflight.
const REMEMBERED_S: &str = "600";
const TIMING_ORIGIN: HeaderName = HeaderName::from_static("timing-allow-origin");

/// The allowed origins.
#[derive(Debug, Default)]
pub(super) struct Origins(Vec<HeaderValue>);

impl Origins {
    /// Reads `api.cors_origins`.
    ///
    /// # Errors
    /// `Failure::Config` for what is no origin: `*`, `null`, a path, another scheme than http and https.
    pub(super) fn parse(text: &str) -> anyhow::Result<Self> {
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        names.map(origin).collect::<anyhow::Result<Vec<_>>>().map(Self)
    }

    /// Adds to an answer what the request's origin may know of it.
    pub(super) fn apply(&self, method: &Method, request: &HeaderMap, answer: &mut HeaderMap) {
        if self.0.is_empty() {
            return;
        }
        answer.append(header::VARY, HeaderValue::from_static("origin"));
        let mut given = request.get_all(header::ORIGIN);
        let (Some(origin), None) = (given.next(), given.next()) else { return };
        if !self.0.contains(origin) {
            return;
        }
        answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        let preflight = *method == Method::OPTIONS && request.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        if !preflight {
            answer.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
            answer.insert(TIMING_ORIGIN, origin.clone());
            return;
        }
        if let Some(methods) = answer.get(header::ALLOW).cloned() {
            answer.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
            answer.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(ACCEPTED));
            answer.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(REMEMBERED_S));
        }
    }
}

fn origin(name: &str) -> anyhow::Result<HeaderValue> {
    let wrong = || {
        let text = format!(
            "api.cors_origins: {name:?} is no origin; write https://HOST or https://HOST:PORT in lower case, without a path"
        );
        anyhow::Error::from(Failure::Config(text))
    };
    let uri: Uri = name.parse().map_err(|_| wrong())?;
    let scheme = uri.scheme_str().filter(|scheme| ["http", "https"].contains(scheme)).ok_or_else(wrong)?;
    let authority = uri.authority().map(|authority| authority.as_str()).filter(|host| !host.contains('@'));
    // Browsers write origins in one form; another one would never be equal.
    if name != format!("{scheme}://{}", authority.ok_or_else(wrong)?)
        || name.bytes().any(|byte| byte.is_ascii_uppercase())
    {
        return Err(wrong());
    }
    HeaderValue::from_str(name).map_err(|_| wrong())
}

/// Says that answers depend on `Accept-Encoding`, which those that are compressed say already.
pub(super) fn vary_on_encoding(answer: &mut HeaderMap) {
    if !answer.contains_key(header::CONTENT_ENCODING) {
        answer.append(header::VARY, HeaderValue::from_static("accept-encoding"));
    }
}

/// For tests: the headers of an answer to `request`.
#[cfg(test)]
fn answered(origins: &Origins, method: &Method, request: &HeaderMap) -> HeaderMap {
    let mut answer = actix_web::HttpResponse::NoContent().insert_header((header::ALLOW, "GET, OPTIONS")).finish();
    origins.apply(method, request, answer.headers_mut());
    answer.headers().clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_origins_are_read() {
        assert!(Origins::parse("").expect("none").0.is_empty());
        let origins = Origins::parse("https://a.example, http://localhost:3000").expect("two");
        assert_eq!(origins.0, ["https://a.example", "http://localhost:3000"]);
        for wrong in
            ["*", "null", "a.example", "https://a.example/", "https://A.example", "ftp://a", "https://u@a", "https://"]
        {
            assert!(Origins::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_listed_origins_are_answered() {
        let origins = Origins::parse("https://good.com").expect("one");
        for (origin, allowed) in [
            ("https://good.com", true),
            ("https://good.com.evil", false),
            ("https://sub.good.com", false),
            ("http://good.com", false),
            ("null", false),
            ("*", false),
        ] {
            let mut request = HeaderMap::new();
            request.insert(header::ORIGIN, HeaderValue::from_str(origin).expect("a value"));
            let answer = answered(&origins, &Method::GET, &request);
            assert_eq!(answer.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN), allowed, "{origin}");
            assert!(!answer.contains_key(header::ACCESS_CONTROL_ALLOW_CREDENTIALS));
            assert_eq!(answer.get(header::VARY).expect("vary"), "origin");
            request.insert(header::ACCESS_CONTROL_REQUEST_METHOD, HeaderValue::from_static("GET"));
            let answer = answered(&origins, &Method::OPTIONS, &request);
            assert_eq!(answer.contains_key(header::ACCESS_CONTROL_ALLOW_METHODS), allowed, "{origin}");
        }
    }
}
