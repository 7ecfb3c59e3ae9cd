//! How long requests take, by route, method and status. The handles are kept by each worker, because finding one in the
//! registry costs more than the rest of the envelope.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::http::{Method, StatusCode};
use metrics::{Histogram, histogram};

type ByStatus = HashMap<(&'static str, u16), Histogram>;

/// The histograms that a worker has used, by route. Routes, methods and statuses are few: no client can make new ones.
#[derive(Default)]
pub(super) struct Durations(RefCell<HashMap<String, ByStatus>>);

impl std::fmt::Debug for Durations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Durations").field(&self.0.borrow().len()).finish()
    }
}

impl Durations {
    /// Counts one request.
    pub(super) fn record(&self, request: &HttpRequest, method: &Method, status: StatusCode, took: Duration) {
        let route = request.match_pattern();
        let route = route.as_deref().unwrap_or("unmatched");
        let (method, status) = (known_method(method), status.as_u16());
        let mut known = self.0.borrow_mut();
        if let Some(found) = known.get(route).and_then(|routes| routes.get(&(method, status))) {
            found.record(took.as_secs_f64());
            return;
        }
        let new = histogram!("platform_api_request_duration_seconds", "route" => route.to_owned(), "method" => method,
            "status" => status.to_string());
        new.record(took.as_secs_f64());
        known.entry(route.to_owned()).or_default().insert((method, status), new);
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
