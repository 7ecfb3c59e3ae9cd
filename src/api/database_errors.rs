//! What errors of the two databases mean for a client: the only tables from SQLSTATEs and ClickHouse codes to problems.

use tokio_postgres::error::{DbError, SqlState};

use super::problem::{ApiError, Code};
use crate::store::clickhouse;
use crate::store::pool::AcquireError;

/// SQLSTATE → problem. The longest matching entry counts: a whole code, else its class (the first two characters).
const SQLSTATES: &[(&str, Code, &str)] = &[
    ("23505", Code::Conflict, "a unique value is taken already"),
    ("23503", Code::Conflict, "another row refers to it, or it refers to a row that does not exist"),
    ("23", Code::InvalidBody, "the database refuses the values"),
    ("22", Code::InvalidBody, "the database cannot store a value exactly"),
    ("54", Code::InvalidBody, "a value is too large or too deeply nested"),
    ("57014", Code::Timeout, "the statement took longer than api.query_timeout_ms"),
    ("55P03", Code::Timeout, "a lock did not become free in time"),
    ("40001", Code::Overloaded, "another transaction was faster"),
    ("40P01", Code::Overloaded, "another transaction was faster"),
    ("25006", Code::DatabaseUnavailable, "the database is read-only at present"),
    ("08", Code::DatabaseUnavailable, "the connection to the database broke"),
    ("28", Code::DatabaseUnavailable, "the database refuses the API's own user"),
    ("53", Code::DatabaseUnavailable, "the database has no resources left"),
    ("57", Code::DatabaseUnavailable, "the database is starting or stopping"),
    ("58", Code::DatabaseUnavailable, "the database's system fails"),
];

/// Seconds a client should wait after a 503 of a database.
const RETRY_AFTER_S: u32 = 2;

impl From<tokio_postgres::Error> for ApiError {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            Some(refused) => of_sqlstate(refused.code()).because(safe_cause(refused)),
            // No code: the connection broke, or the driver could not read or write a value.
            None if error.is_closed()
                || std::error::Error::source(&error).is_some_and(|cause| cause.is::<std::io::Error>()) =>
            {
                unavailable("PostgreSQL").because(crate::store::postgres::chain(&error))
            }
            None => Self::internal(crate::store::postgres::chain(&error)),
        }
    }
}

impl ApiError {
    /// An error of `store` with its context: what PostgreSQL said decides, if it was PostgreSQL.
    pub(super) fn of_store(error: anyhow::Error) -> Self {
        match error.downcast::<tokio_postgres::Error>() {
            Ok(error) => error.into(),
            Err(other) => Self::internal(format!("{other:#}")),
        }
    }
}

fn of_sqlstate(state: &SqlState) -> ApiError {
    let found = SQLSTATES
        .iter()
        .find(|(code, ..)| *code == state.code())
        .or_else(|| SQLSTATES.iter().find(|(class, ..)| class.len() == 2 && state.code().starts_with(class)));
    let Some((_, code, detail)) = found else {
        return ApiError::new(Code::Internal, "the log has the cause under this request_id");
    };
    let error = ApiError::new(*code, *detail);
    if code.status().as_u16() == 503 { error.retry_after(RETRY_AFTER_S) } else { error }
}

/// What may be logged of a server's error: its texts may hold values of rows.
fn safe_cause(error: &DbError) -> String {
    format!(
        "PostgreSQL SQLSTATE {} table {} column {} constraint {} routine {}",
        error.code().code(),
        error.table().unwrap_or("-"),
        error.column().unwrap_or("-"),
        error.constraint().unwrap_or("-"),
        error.routine().unwrap_or("-"),
    )
}

/// Whether it is a violation of this constraint.
pub(super) fn violates(error: &tokio_postgres::Error, constraint: &str) -> bool {
    error.as_db_error().and_then(DbError::constraint) == Some(constraint)
}

impl From<AcquireError> for ApiError {
    fn from(error: AcquireError) -> Self {
        match error {
            AcquireError::Exhausted => {
                Self::new(Code::Overloaded, "all database connections are in use").retry_after(1).because(error)
            }
            AcquireError::Unavailable(_) => unavailable("PostgreSQL").because(error),
        }
    }
}

impl From<clickhouse::Error> for ApiError {
    fn from(error: clickhouse::Error) -> Self {
        let answer = match &error {
            clickhouse::Error::TimedOut(_) => timeout(),
            clickhouse::Error::Network(_) => unavailable("ClickHouse"),
            clickhouse::Error::Unreadable(_) => return Self::internal(error),
            clickhouse::Error::Server { code, .. } => match code {
                // 158, 396: the answer has more rows or bytes than allowed; 241 would be memory, which may pass.
                158 | 307 | 396 => Self::new(Code::ResultTooLarge, "the answer has more rows or bytes than allowed"),
                // 159 TIMEOUT_EXCEEDED, 160 TOO_SLOW, 209 SOCKET_TIMEOUT, 394 QUERY_WAS_CANCELLED.
                159 | 160 | 209 | 394 => timeout(),
                // 60 UNKNOWN_TABLE, 81 UNKNOWN_DATABASE: nothing was loaded yet.
                60 | 81 => {
                    Self::new(Code::TableUnavailable, "the table has not been loaded yet").retry_after(RETRY_AFTER_S)
                }
                // 497 ACCESS_DENIED, 516 AUTHENTICATION_FAILED, 192 and 194: the API's own credentials.
                192 | 194 | 497 | 516 => unavailable("ClickHouse"),
                _ if error.class() == clickhouse::Class::Retry => unavailable("ClickHouse"),
                _ => return Self::internal(safe_clickhouse_cause(&error)),
            },
        };
        answer.because(safe_clickhouse_cause(&error))
    }
}

/// ClickHouse's texts quote the query and at times values: its code is enough to look it up.
fn safe_clickhouse_cause(error: &clickhouse::Error) -> String {
    match error.code() {
        Some(code) => format!("ClickHouse code {code} {}", error_name(&error.to_string())),
        None => error.to_string(),
    }
}

/// The name of the code, which ClickHouse writes as `(ILLEGAL_COLUMN)` near the end of its text.
fn error_name(text: &str) -> &str {
    let names = text.rsplit('(').filter_map(|part| part.split_once(')')).map(|(name, _)| name);
    let plain = |name: &&str| name.len() > 2 && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
    names.into_iter().find(plain).unwrap_or_default()
}

fn unavailable(who: &str) -> ApiError {
    ApiError::new(Code::DatabaseUnavailable, format!("{who} cannot be reached")).retry_after(RETRY_AFTER_S)
}

/// The answer to a query that took longer than `api.query_timeout_ms`.
pub(super) fn timeout() -> ApiError {
    ApiError::new(Code::Timeout, "the query took longer than api.query_timeout_ms")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sqlstates_map_by_code_then_by_class() {
        for (state, code) in [
            ("23505", Code::Conflict),
            ("23514", Code::InvalidBody),
            ("22P05", Code::InvalidBody),
            ("54001", Code::InvalidBody),
            ("57014", Code::Timeout),
            ("57P01", Code::DatabaseUnavailable),
            ("08006", Code::DatabaseUnavailable),
            ("53300", Code::DatabaseUnavailable),
            ("40P01", Code::Overloaded),
            ("42501", Code::Internal),
            ("42P01", Code::Internal),
            ("XX000", Code::Internal),
        ] {
            assert_eq!(of_sqlstate(&SqlState::from_code(state)).code(), code, "{state}");
        }
    }

    #[test]
    fn clickhouse_codes_map() {
        let server = |code| clickhouse::Error::Server { code, text: "Code: secret row".to_owned() };
        for (code, expected) in [
            (159, Code::Timeout),
            (396, Code::ResultTooLarge),
            (60, Code::TableUnavailable),
            (202, Code::DatabaseUnavailable),
            (62, Code::Internal),
        ] {
            let error = ApiError::from(server(code));
            assert_eq!(error.code(), expected, "{code}");
            assert!(!error.cause().unwrap_or_default().contains("secret"), "{code}");
        }
        let text = "Code: 44. DB::Exception: Not so (x). (ILLEGAL_COLUMN) (version 26.7.2.1 (official build))";
        assert_eq!(error_name(text), "ILLEGAL_COLUMN");
    }
}
