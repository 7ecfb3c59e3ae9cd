//! What goes wrong, as clients see it: RFC 9457 problem bodies out of one table of codes.
//!
//! A body never carries text of a database or of a driver; the cause goes to the log under the same request id.

use std::fmt;

use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::http::{StatusCode, header};
use actix_web::{HttpResponse, ResponseError};
use serde::Serialize;
use utoipa::ToSchema;

/// Shorthand of every handler.
pub(super) type ApiResult<T> = Result<T, ApiError>;

macro_rules! codes {
    ($($variant:ident $code:literal $status:ident $title:literal $help:literal;)+) => {
        /// Every kind of problem that the API answers.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Code {
            $(#[doc = $title] $variant,)+
        }

        impl Code {
            /// All of them.
            pub(super) const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The stable word that programs compare.
            pub(super) fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code,)+ }
            }

            /// The HTTP status it is answered with.
            pub(super) fn status(self) -> StatusCode {
                match self { $(Self::$variant => StatusCode::$status,)+ }
            }

            /// What happened, the same text for every occurrence.
            pub(super) fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)+ }
            }

            /// What the client can do about it.
            pub(super) fn help(self) -> &'static str {
                match self { $(Self::$variant => $help,)+ }
            }
        }
    };
}

codes! {
    BadRequest "bad-request" BAD_REQUEST "The request cannot be understood" "Correct the request.";
    InvalidParameters "invalid-parameters" BAD_REQUEST "Query parameters are wrong" "`errors` names each one and says what is accepted; an unknown parameter is an error too.";
    InvalidHeader "invalid-header" BAD_REQUEST "A request header is wrong" "`detail` names the header and says what is accepted.";
    InvalidJson "invalid-json" BAD_REQUEST "The body is not JSON" "Send one JSON object in UTF-8.";
    InvalidCursor "invalid-cursor" BAD_REQUEST "The cursor does not belong to this list" "Take the cursor from `next` of an answer to the same filters and sort, or begin without one.";
    InvalidToken "invalid-consistency-token" BAD_REQUEST "The consistency token is not one of this API" "Send the `X-Consistency-Token` of a write unchanged.";
    TokenNotSupported "consistency-not-supported" BAD_REQUEST "This resource takes no consistency token" "Statistics are built in batch; /v1/analytics takes tokens.";
    Unauthorized "unauthorized" UNAUTHORIZED "An API key is needed" "Send `Authorization: Bearer pk_…` with a key that is neither expired nor revoked.";
    Forbidden "forbidden" FORBIDDEN "The API key does not allow this" "Use a key with the scope that `detail` names.";
    RequestTimeout "request-timeout" REQUEST_TIMEOUT "The request took too long to arrive" "Send the body without pauses.";
    NotFound "not-found" NOT_FOUND "There is no such resource" "Check the path and the id.";
    MethodNotAllowed "method-not-allowed" METHOD_NOT_ALLOWED "The resource does not know this method" "`Allow` lists the methods it knows.";
    NotAcceptable "not-acceptable" NOT_ACCEPTABLE "No acceptable format" "`detail` lists the formats that exist.";
    DuplicatePost "duplicate-post" CONFLICT "The post exists already" "Platform and post_id together are unique: change the existing post instead.";
    Conflict "conflict" CONFLICT "The request contradicts what is stored" "Read the current state and decide anew.";
    KeyInUse "idempotency-key-in-use" CONFLICT "A request with this Idempotency-Key is still running" "Repeat the request after `Retry-After` seconds to get its answer.";
    OtherLog "other-log" CONFLICT "The consistency token is of another log" "The database was restored or failed over since that write; read without the token.";
    OwnKey "own-key" CONFLICT "A key cannot revoke itself" "Use another key with the scope `admin`, or `platform keys revoke`.";
    PreconditionFailed "precondition-failed" PRECONDITION_FAILED "The resource has changed" "Read it again and repeat the change with its new ETag.";
    PreconditionRequired "precondition-required" PRECONDITION_REQUIRED "If-Match is required" "Read the resource and send its ETag in `If-Match`; `*` overwrites whatever is there.";
    BodyTooLarge "body-too-large" PAYLOAD_TOO_LARGE "The body is too large" "`detail` has the limit.";
    UriTooLong "uri-too-long" URI_TOO_LONG "The path and the query are too long" "`detail` has the limit.";
    UnsupportedMediaType "unsupported-media-type" UNSUPPORTED_MEDIA_TYPE "The body's type is not supported" "`detail` lists the types that are.";
    InvalidBody "invalid-body" UNPROCESSABLE_ENTITY "The body's content is wrong" "`errors` points at each member and says what is accepted.";
    KeyReused "idempotency-key-reused" UNPROCESSABLE_ENTITY "This Idempotency-Key belongs to another request" "Use a new key for a new request.";
    ResultTooLarge "result-too-large" UNPROCESSABLE_ENTITY "The answer would be too large" "Ask for a shorter span, a coarser interval or fewer groups.";
    RateLimited "rate-limited" TOO_MANY_REQUESTS "The key has used up its rate limit" "Repeat the request after `Retry-After` seconds; `RateLimit` says how much is left.";
    Internal "internal" INTERNAL_SERVER_ERROR "Something unexpected happened" "Report the request_id; the log has the cause.";
    DatabaseUnavailable "database-unavailable" SERVICE_UNAVAILABLE "A database cannot be reached" "Repeat the request later.";
    Overloaded "overloaded" SERVICE_UNAVAILABLE "Too many requests at once" "Repeat the request after `Retry-After` seconds.";
    ReplicaBehind "replica-behind" SERVICE_UNAVAILABLE "The analytics have not seen this write yet" "Repeat after `Retry-After` seconds, or send `Prefer: wait=5`.";
    PipelineDown "pipeline-down" SERVICE_UNAVAILABLE "Changes do not reach the analytics" "Somebody must mend the pipeline; `detail` says what is wrong. `Prefer: handling=lenient` gives what there is.";
    TableUnavailable "table-unavailable" SERVICE_UNAVAILABLE "A table is not ready for analytics" "`detail` says why; /v1/pipeline shows its state.";
    Timeout "timeout" GATEWAY_TIMEOUT "The database took too long" "Ask for less, or repeat the request later.";
}

/// One thing that is wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct FieldError {
    /// JSON pointer of a member of the body.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "/sentiment_score")]
    pub pointer: Option<String>,
    /// Name of a query parameter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameter: Option<String>,
    /// `unknown`, `required`, `invalid`, `read_only` or `repeated`.
    pub code: &'static str,
    /// What would be accepted.
    pub detail: String,
}

impl FieldError {
    /// About a member of the body.
    pub(super) fn member(name: &str, code: &'static str, detail: impl Into<String>) -> Self {
        let pointer = format!("/{}", name.replace('~', "~0").replace('/', "~1"));
        Self { pointer: Some(pointer), parameter: None, code, detail: detail.into() }
    }

    /// The same about the `index`th item of a list.
    #[must_use]
    pub(super) fn of_item(mut self, index: usize) -> Self {
        self.pointer = Some(format!("/{index}{}", self.pointer.unwrap_or_default()));
        self
    }

    /// About a whole item of a list.
    pub(super) fn item(index: usize, code: &'static str, detail: impl Into<String>) -> Self {
        Self { pointer: Some(format!("/{index}")), parameter: None, code, detail: detail.into() }
    }

    /// About a query parameter.
    pub(super) fn parameter(name: &str, code: &'static str, detail: impl Into<String>) -> Self {
        Self { pointer: None, parameter: Some(name.to_owned()), code, detail: detail.into() }
    }
}

/// Mistakes named at once; a client that makes more gets to them later.
const ERRORS_MAX: usize = 100;

/// The body of every error, `application/problem+json` (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Problem {
    /// Page that explains the code.
    #[serde(rename = "type")]
    #[schema(example = "/problems/not-found")]
    pub kind: String,
    /// What happened, the same text for every occurrence.
    pub title: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// What happened this time.
    pub detail: String,
    /// Path of the request.
    pub instance: String,
    /// Stable word that programs compare.
    #[schema(example = "not-found")]
    pub code: &'static str,
    /// Also in the header X-Request-Id, and in the log.
    pub request_id: String,
    /// Each thing that is wrong with the request; may be empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
}

/// A problem on its way to the client.
#[derive(Debug, Clone)]
pub(super) struct ApiError {
    code: Code,
    detail: String,
    errors: Vec<FieldError>,
    headers: Vec<(HeaderName, HeaderValue)>,
    cause: Option<String>,
}

impl ApiError {
    /// With the text that belongs to this occurrence.
    pub(super) fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), errors: Vec::new(), headers: Vec::new(), cause: None }
    }

    /// A problem of several parameters or members.
    pub(super) fn fields(code: Code, mut errors: Vec<FieldError>) -> Self {
        errors.truncate(ERRORS_MAX);
        let named: Vec<&str> = errors
            .iter()
            .filter_map(|error| error.parameter.as_deref().or(error.pointer.as_deref()))
            .take(10)
            .collect();
        let detail = format!("wrong: {}", named.join(", "));
        Self { errors, ..Self::new(code, detail) }
    }

    /// A problem of many items of a body, none of which may go unnamed.
    pub(super) fn items(code: Code, detail: impl Into<String>, errors: Vec<FieldError>) -> Self {
        Self { errors, ..Self::new(code, detail) }
    }

    /// Each thing that is wrong with the request.
    pub(super) fn into_parts(self) -> (Code, String, Vec<FieldError>) {
        (self.code, self.detail, self.errors)
    }

    /// A defect of this program or of a file of it. `cause` goes to the log only.
    pub(super) fn internal(cause: impl fmt::Display) -> Self {
        Self::new(Code::Internal, "the log has the cause under this request_id").because(cause)
    }

    /// Keeps a cause for the log. It must not hold values of rows.
    #[must_use]
    pub(super) fn because(mut self, cause: impl fmt::Display) -> Self {
        self.cause = Some(cause.to_string());
        self
    }

    /// Adds a header to the answer.
    #[must_use]
    pub(super) fn header(mut self, name: HeaderName, value: impl fmt::Display) -> Self {
        if let Ok(value) = HeaderValue::from_str(&value.to_string()) {
            self.headers.push((name, value));
        }
        self
    }

    /// Adds `Retry-After`.
    #[must_use]
    pub(super) fn retry_after(self, seconds: u32) -> Self {
        self.header(header::RETRY_AFTER, seconds)
    }

    /// Its code.
    pub(super) fn code(&self) -> Code {
        self.code
    }

    /// What the log should have and the client must not.
    pub(super) fn cause(&self) -> Option<&str> {
        self.cause.as_deref()
    }

    /// The answer to the client.
    pub(super) fn respond(&self, instance: &str, request_id: &str) -> HttpResponse {
        let problem = Problem {
            kind: format!("/problems/{}", self.code.as_str()),
            title: self.code.title(),
            status: self.code.status().as_u16(),
            detail: self.detail.clone(),
            instance: instance.to_owned(),
            code: self.code.as_str(),
            request_id: request_id.to_owned(),
            errors: self.errors.clone(),
        };
        let mut response = HttpResponse::build(self.code.status());
        if matches!(self.code, Code::RequestTimeout | Code::BodyTooLarge) {
            // The rest of the body is not waited for.
            response.force_close();
        }
        for (name, value) in &self.headers {
            response.insert_header((name.clone(), value.clone()));
        }
        response.content_type("application/problem+json").body(serde_json::to_vec(&problem).unwrap_or_default())
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.as_str(), self.detail)
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        self.code.status()
    }

    /// The envelope replaces this by the whole problem, which needs the request's path and id.
    fn error_response(&self) -> HttpResponse {
        self.respond("", "")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_words() {
        let mut words: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), Code::ALL.len());
        assert!(words.iter().all(|word| word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')));
        assert!(Code::ALL.iter().all(|code| code.status().is_client_error() || code.status().is_server_error()));
    }
}
