//! Requests that no handler takes: 404, or 405 and `Allow`, or the answer to OPTIONS. The OpenAPI document is the list of
//! routes, so the two cannot differ.

use actix_web::http::{Method, header};
use actix_web::{HttpRequest, HttpResponse};
use utoipa::openapi::{OpenApi, PathItem};

use super::problem::{ApiError, ApiResult, Code};
use super::state::State;

/// Pages that are not part of the OpenAPI document; they know GET and HEAD.
const PAGES: [&str; 7] = ["/", "/docs", "/docs/", "/docs/{file}", "/problems", "/problems/{code}", "/assets/start.css"];

/// The default handler.
///
/// # Errors
/// 404 or 405.
pub(super) async fn fallback(state: State, request: HttpRequest) -> ApiResult<HttpResponse> {
    let allowed = allowed(&state.shared.openapi.0, request.path());
    if allowed.is_empty() {
        return Err(ApiError::new(Code::NotFound, "no resource has this path; /docs lists them"));
    }
    let allow = allowed.join(", ");
    if request.method() == Method::OPTIONS {
        return Ok(HttpResponse::NoContent().insert_header((header::ALLOW, allow)).finish());
    }
    if request.method() == Method::GET && allowed.contains(&"GET") {
        return Err(ApiError::new(Code::NotFound, "no resource has this path; /docs lists them"));
    }
    Err(method_not_allowed(&allowed))
}

/// The problem of a request to a path that the document names literally and a template matches too: the handler of the
/// template gets it because the literal path does not know its method.
pub(super) fn wrong_method(request: &HttpRequest) -> Option<ApiError> {
    let state = request.app_data::<State>()?;
    let item = state.shared.openapi.0.paths.paths.get(request.path())?;
    Some(method_not_allowed(&sorted(methods_of(item).collect())))
}

fn method_not_allowed(allowed: &[&str]) -> ApiError {
    let allow = allowed.join(", ");
    ApiError::new(Code::MethodNotAllowed, format!("this resource knows {allow}")).header(header::ALLOW, allow)
}

/// The methods that a path knows, OPTIONS included; empty when there is no such path.
fn allowed(openapi: &OpenApi, path: &str) -> Vec<&'static str> {
    let mut methods: Vec<&'static str> = Vec::new();
    let paths = &openapi.paths.paths;
    match paths.get(path) {
        // What stands there literally wins over templates.
        Some(item) => methods.extend(methods_of(item)),
        None => methods.extend(
            paths.iter().filter(|(template, _)| matches(template, path)).flat_map(|(_, item)| methods_of(item)),
        ),
    }
    if PAGES.iter().any(|template| matches(template, path)) {
        methods.extend(["GET", "HEAD"]);
    }
    if methods.is_empty() { methods } else { sorted(methods) }
}

/// With OPTIONS, which every resource knows.
fn sorted(mut methods: Vec<&'static str>) -> Vec<&'static str> {
    methods.push("OPTIONS");
    methods.sort_unstable();
    methods.dedup();
    methods
}

fn methods_of(item: &PathItem) -> impl Iterator<Item = &'static str> {
    let known = [
        ("GET", item.get.is_some()),
        ("HEAD", item.get.is_some()),
        ("POST", item.post.is_some()),
        ("PUT", item.put.is_some()),
        ("PATCH", item.patch.is_some()),
        ("DELETE", item.delete.is_some()),
    ];
    known.into_iter().filter(|(_, there)| *there).map(|(method, _)| method)
}

/// Whether `path` is of the form of `template`, in which `{x}` stands for one part of the path.
fn matches(template: &str, path: &str) -> bool {
    let (mut wanted, mut given) = (template.split('/'), path.split('/'));
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return true,
            (Some(part), Some(text)) if part.starts_with('{') && !text.is_empty() => {}
            (Some(part), Some(text)) if part == text => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_match_part_by_part() {
        for (template, path, expected) in [
            ("/v1/a/{id}", "/v1/a/1", true),
            ("/v1/a/{id}", "/v1/a/", false),
            ("/v1/a/{id}", "/v1/a", false),
            ("/v1/a/{id}", "/v1/a/1/b", false),
            ("/v1/a", "/v1/a/", false),
            ("/", "/", true),
        ] {
            assert_eq!(matches(template, path), expected, "{template} {path}");
        }
    }
}
