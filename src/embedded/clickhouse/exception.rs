//! ClickHouse's errors: a number, a text, and the HTTP status that its server gives the number.

use actix_web::http::StatusCode;

/// An error as ClickHouse's server words it. Of the engine or of this front.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub(super) struct Exception {
    /// Number of `src/Common/ErrorCodes.cpp`; 0 if the engine gave none.
    pub(super) code: u32,
    /// `Code: N. DB::Exception: … (NAME)`.
    pub(super) text: String,
}

macro_rules! codes {
    ($($name:ident = $number:literal,)*) => {
        $(pub(super) const $name: u32 = $number;)*

        fn name_of(code: u32) -> &'static str {
            match code {
                $($number => stringify!($name),)*
                _ => "UNKNOWN_EXCEPTION",
            }
        }
    };
}

// Those that this front raises itself, with the numbers of `system.errors`.
codes! {
    CANNOT_READ_ALL_DATA = 33,
    BAD_ARGUMENTS = 36,
    NOT_IMPLEMENTED = 48,
    SYNTAX_ERROR = 62,
    READONLY = 164,
    TOO_MANY_SIMULTANEOUS_QUERIES = 202,
    SOCKET_TIMEOUT = 209,
    NETWORK_ERROR = 210,
    QUERY_IS_TOO_LARGE = 229,
    CANNOT_DECOMPRESS = 271,
    QUERY_IS_PROHIBITED = 392,
    QUERY_WAS_CANCELLED = 394,
    TOO_MANY_ROWS_OR_BYTES = 396,
    UNKNOWN_ROLE = 511,
    AUTHENTICATION_FAILED = 516,
    UNSUPPORTED_MEDIA_TYPE = 779,
}

impl Exception {
    /// One of this front's own, worded as ClickHouse words its errors.
    pub(super) fn new(code: u32, reason: impl std::fmt::Display) -> Self {
        Self { code, text: format!("Code: {code}. DB::Exception: {reason} ({})", name_of(code)) }
    }

    /// From the engine's text, which begins with `Code: N.`; a text without one is an internal error.
    pub(super) fn from_engine(text: String) -> Self {
        let number = text.strip_prefix("Code: ").and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next());
        let code = number.and_then(|digits| digits.parse().ok()).unwrap_or(0);
        Self { code, text }
    }

    /// As `src/Server/HTTP/exceptionCodeToHTTPStatus.cpp` maps the numbers.
    pub(super) fn status(&self) -> StatusCode {
        match self.code {
            194 => StatusCode::UNAUTHORIZED,
            192 | 193 | 497 | 512 | 516 => StatusCode::FORBIDDEN,
            6 | 8 | 15 | 25 | 26 | 27 | 36 | 37 | 38 | 41 | 44 | 53 | 62 | 72 | 117 | 123 | 167 | 168 | 223 | 321
            | 376 | 427 | 441 | 675 | 676 => StatusCode::BAD_REQUEST,
            46 | 47 | 50 | 56 | 60 | 63 | 73 | 78 | 81 | 115 | 152 | 336 | 511 => StatusCode::NOT_FOUND,
            229 => StatusCode::PAYLOAD_TOO_LARGE,
            48 => StatusCode::NOT_IMPLEMENTED,
            76 | 209 | 439 => StatusCode::SERVICE_UNAVAILABLE,
            381 => StatusCode::LENGTH_REQUIRED,
            159 => StatusCode::REQUEST_TIMEOUT,
            779 => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The text with the version at its end, as the server sends it; older clients look for it.
    pub(super) fn line(&self, version: &str) -> String {
        format!("{} (version {version} (libchdb))\n", self.text.trim_end())
    }
}

/// Lets an exception pass through `std::io` readers and writers.
impl From<Exception> for std::io::Error {
    fn from(exception: Exception) -> Self {
        Self::other(exception)
    }
}

impl From<std::io::Error> for Exception {
    fn from(error: std::io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<Self>()) {
            Some(exception) => exception.clone(),
            None => Self::new(CANNOT_DECOMPRESS, format_args!("the body cannot be read: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_decides_the_status() {
        let missing = Exception::from_engine("Code: 60. DB::Exception: Table x does not exist. (UNKNOWN_TABLE)".into());
        assert_eq!((missing.code, missing.status()), (60, StatusCode::NOT_FOUND));
        assert_eq!(Exception::new(READONLY, "no").status(), StatusCode::INTERNAL_SERVER_ERROR, "as the server does");
        assert_eq!(Exception::from_engine("odd".into()).status(), StatusCode::INTERNAL_SERVER_ERROR);
    }

    #[test]
    fn exceptions_survive_a_trip_through_a_reader() {
        let thrown = Exception::new(QUERY_IS_TOO_LARGE, "too large");
        assert_eq!(thrown.text, "Code: 229. DB::Exception: too large (QUERY_IS_TOO_LARGE)");
        assert_eq!(Exception::from(std::io::Error::from(thrown.clone())), thrown);
    }
}
