//! What a request asks for, read from its URL, its headers and, for forms, its parts.

use std::collections::BTreeMap;

use actix_web::HttpRequest;
use actix_web::http::Method;
use actix_web::web::Query;

use super::access::{Credentials, Role};
use super::compression::Encoding;
use super::exception::{self, Exception};

/// One request, before its body is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    /// Part of the statement that stands in the URL or in a form.
    pub(super) query: String,
    /// Values for `{name:Type}`, typed by the engine.
    pub(super) parameters: Vec<(String, String)>,
    /// Engine settings of this request only.
    pub(super) settings: BTreeMap<String, String>,
    pub(super) database: Option<String>,
    /// Output format of a statement that names none.
    pub(super) default_format: String,
    pub(super) query_id: String,
    /// Buffer the whole answer, so that an error is a status.
    pub(super) wait_end_of_query: bool,
    /// The answer in ClickHouse's compressed blocks.
    pub(super) compress: bool,
    /// The body comes in ClickHouse's compressed blocks.
    pub(super) decompress: bool,
    pub(super) body_encoding: Encoding,
    pub(super) answer_encoding: Encoding,
    /// The engine refuses every change.
    pub(super) read_only: bool,
}

/// The fields of the URL and, if there is one, of the form.
pub(super) type Fields = Vec<(String, String)>;

/// The URL's fields.
///
/// # Errors
/// 36 if the query string cannot be read.
pub(super) fn url_fields(request: &HttpRequest) -> Result<Fields, Exception> {
    Query::<Fields>::from_query(request.query_string()).map(Query::into_inner).map_err(|error| {
        Exception::new(exception::BAD_ARGUMENTS, format_args!("the URL's parameters cannot be read: {error}"))
    })
}

/// Who the request says it comes from: headers of ClickHouse, Basic, or URL; nobody named is `default`.
///
/// # Errors
/// 516 when several ways are mixed, as the server does.
pub(super) fn credentials(request: &HttpRequest, fields: &Fields) -> Result<Credentials, Exception> {
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let field = |name: &str| fields.iter().rfind(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let own = (header("X-ClickHouse-User"), header("X-ClickHouse-Key"));
    let url = (field("user"), field("password"));
    let authorization = header("Authorization");
    let given = [own != (None, None), url != (None, None), authorization.is_some()];
    if given.iter().filter(|given| **given).count() > 1 {
        return Err(Exception::new(
            exception::AUTHENTICATION_FAILED,
            "Invalid authentication: credentials come in more than one of the URL, the X-ClickHouse headers and Authorization",
        ));
    }
    if let Some(authorization) = authorization {
        return Credentials::from_basic(authorization).ok_or_else(|| {
            Exception::new(exception::AUTHENTICATION_FAILED, "Invalid authentication: only Basic is supported")
        });
    }
    let (user, password) = if given[0] { own } else { url };
    Ok(Credentials { user: user.unwrap_or("default").to_owned(), password: password.unwrap_or_default().to_owned() })
}

impl Request {
    /// Sorts the fields into what this front does itself and what is a setting of the engine.
    ///
    /// # Errors
    /// A field that promises what this front does not have, or a reader that wants to write.
    pub(super) fn new(request: &HttpRequest, fields: Fields, role: Role) -> Result<Self, Exception> {
        let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
        let mut asked = Self {
            query: String::new(),
            parameters: Vec::new(),
            settings: BTreeMap::new(),
            database: header("X-ClickHouse-Database").map(str::to_owned),
            default_format: header("X-ClickHouse-Format").unwrap_or("TabSeparated").to_owned(),
            query_id: String::new(),
            wait_end_of_query: false,
            compress: false,
            decompress: false,
            body_encoding: Encoding::of_body(header("Content-Encoding").unwrap_or_default())?,
            answer_encoding: Encoding::of_answer(header("Accept-Encoding").unwrap_or_default()),
            // As the server: what a link, a prefetch or a cache may repeat changes nothing.
            read_only: role == Role::Reader || *request.method() != Method::POST,
        };
        for (name, value) in fields {
            asked.field(name, value, role)?;
        }
        if asked.query_id.is_empty() {
            asked.query_id = uuid::Uuid::new_v4().to_string();
        }
        Ok(asked)
    }

    /// Lowers a limit that is above the front's, or none at all, to the front's.
    pub(super) fn cap_execution_time(&mut self, longest: std::time::Duration) {
        if let Some(value) = self.settings.get_mut("max_execution_time")
            && let Ok(seconds) = value.parse::<f64>()
            && (seconds <= 0.0 || seconds > longest.as_secs_f64())
        {
            *value = longest.as_secs().to_string();
        }
    }

    fn field(&mut self, name: String, value: String, role: Role) -> Result<(), Exception> {
        match name.as_str() {
            "query" if self.query.is_empty() => self.query = value,
            "query" => {
                self.query.push('\n');
                self.query.push_str(&value);
            }
            "database" => self.database = Some(value).filter(|name| !name.is_empty()),
            "default_format" => self.default_format = value,
            "query_id" => self.query_id = value,
            "wait_end_of_query" => self.wait_end_of_query = flag(&value),
            "compress" => self.compress = flag(&value),
            "decompress" => self.decompress = flag(&value),
            "enable_http_compression" if !flag(&value) => self.answer_encoding = Encoding::Identity,
            "readonly" if role == Role::Reader && !flag(&value) => {
                return Err(Exception::new(exception::READONLY, "Cannot modify 'readonly' setting in readonly mode."));
            }
            "readonly" => self.read_only |= flag(&value),
            "role" => {
                return Err(Exception::new(
                    exception::UNKNOWN_ROLE,
                    "There is no role: this engine has an administrator and a reader, chosen by user and password",
                ));
            }
            // Done elsewhere, or without a meaning where there are no sessions, quotas and progress headers.
            "user"
            | "password"
            | "session_id"
            | "session_timeout"
            | "session_check"
            | "close_session"
            | "quota_key"
            | "buffer_size"
            | "stacktrace"
            | "client_protocol_version"
            | "enable_http_compression"
            | "http_zlib_compression_level"
            | "send_progress_in_http_headers"
            | "http_headers_progress_interval_ms"
            | "cancel_http_readonly_queries_on_client_close"
            | "add_http_cors_header" => {}
            _ => match name.strip_prefix("param_") {
                Some(parameter) => self.parameters.push((parameter.to_owned(), value)),
                None => {
                    self.settings.insert(name, value);
                }
            },
        }
        Ok(())
    }
}

/// ClickHouse's booleans.
fn flag(value: &str) -> bool {
    !matches!(value.to_ascii_lowercase().as_str(), "" | "0" | "false")
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::test::TestRequest;

    fn asked(uri: &str, role: Role) -> Result<Request, Exception> {
        let request = TestRequest::post().uri(uri).to_http_request();
        Request::new(&request, url_fields(&request)?, role)
    }

    #[test]
    fn fields_are_sorted_into_parameters_settings_and_our_own() {
        let asked = asked(
            "/?query=SELECT+1&param_a=x%27y&max_threads=1&database=d&wait_end_of_query=1&query_id=q",
            Role::Reader,
        );
        let asked = asked.expect("accepted");
        assert_eq!(asked.parameters, [("a".to_owned(), "x'y".to_owned())]);
        assert_eq!(asked.settings, BTreeMap::from([("max_threads".to_owned(), "1".to_owned())]));
        assert_eq!(
            (asked.query.as_str(), asked.database.as_deref(), asked.query_id.as_str()),
            ("SELECT 1", Some("d"), "q")
        );
        assert!(asked.wait_end_of_query && asked.read_only);
    }

    #[test]
    fn a_reader_stays_a_reader() {
        assert_eq!(asked("/?readonly=0", Role::Reader).expect_err("refused").code, exception::READONLY);
        assert!(asked("/?readonly=1", Role::Reader).expect("accepted").read_only);
        assert!(!asked("/?readonly=0", Role::Administrator).expect("accepted").read_only);
        assert!(asked("/?readonly=2", Role::Administrator).expect("accepted").read_only);
        let get = TestRequest::get().uri("/").to_http_request();
        assert!(Request::new(&get, Vec::new(), Role::Administrator).expect("accepted").read_only);
    }

    #[test]
    fn credentials_come_one_way_only() {
        let request = TestRequest::get().uri("/?user=a&password=b").to_http_request();
        let fields = url_fields(&request).expect("read");
        assert_eq!(
            credentials(&request, &fields).expect("given"),
            Credentials { user: "a".into(), password: "b".into() }
        );
        let both = TestRequest::get().uri("/?user=a").insert_header(("X-ClickHouse-Key", "b")).to_http_request();
        assert!(credentials(&both, &url_fields(&both).expect("read")).is_err());
        let none = TestRequest::get().to_http_request();
        assert_eq!(credentials(&none, &Vec::new()).expect("default").user, "default");
    }
}
