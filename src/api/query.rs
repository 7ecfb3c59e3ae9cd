//! Query parameters, strictly: an unknown, repeated or malformed one is refused with its name, all of them at once.

use actix_web::HttpRequest;
use actix_web::web;
use chrono::{DateTime, Utc};

use super::problem::{ApiError, ApiResult, Code, FieldError};
use crate::catalog::endpoint_parameter::{Refused, parse_moment};

/// The parameters of a request that nobody has asked for yet, and what was found wrong so far.
#[derive(Debug)]
pub(super) struct Query {
    pairs: Vec<(String, String)>,
    known: Vec<String>,
    errors: Vec<FieldError>,
}

impl Query {
    /// Those of `request`.
    ///
    /// # Errors
    /// 400 when the query string cannot be decoded.
    pub(super) fn of(request: &HttpRequest) -> ApiResult<Self> {
        let pairs = web::Query::<Vec<(String, String)>>::from_query(request.query_string()).map_err(|_| {
            ApiError::new(Code::BadRequest, "the query string is not of the form name=value&name=value")
        })?;
        Ok(Self { pairs: pairs.into_inner(), known: Vec::new(), errors: Vec::new() })
    }

    /// Refuses every parameter.
    ///
    /// # Errors
    /// 400 that names them.
    pub(super) fn none(request: &HttpRequest) -> ApiResult<()> {
        if request.query_string().is_empty() { Ok(()) } else { Self::of(request)?.finish() }
    }

    /// The text of `name`, if it was given.
    pub(super) fn text(&mut self, name: &str) -> Option<String> {
        self.known.push(name.to_owned());
        let mut given = self.pairs.extract_if(.., |(key, _)| key == name).map(|(_, value)| value);
        let first = given.next();
        let repeated = given.count() > 0;
        if repeated {
            self.refuse(name, "repeated", "was given more than once");
        }
        first
    }

    /// `name` read by `read`.
    pub(super) fn parsed<T>(&mut self, name: &str, read: impl FnOnce(&str) -> Result<T, Refused>) -> Option<T> {
        let text = self.text(name)?;
        match read(&text) {
            Ok(value) => Some(value),
            Err(refused) => {
                self.refuse(name, "invalid", refused.0);
                None
            }
        }
    }

    /// A text that filters: not empty, without U+0000, which PostgreSQL cannot compare.
    pub(super) fn filter(&mut self, name: &str) -> Option<String> {
        self.parsed(name, |text| {
            if text.is_empty() || text.contains('\0') {
                return Err(Refused("must not be empty and must not contain U+0000".to_owned()));
            }
            Ok(text.to_owned())
        })
    }

    /// A moment (RFC 3339 or a date).
    pub(super) fn moment(&mut self, name: &str) -> Option<DateTime<Utc>> {
        self.parsed(name, parse_moment)
    }

    /// One of `words`.
    pub(super) fn word(&mut self, name: &str, words: &[&'static str]) -> Option<&'static str> {
        self.parsed(name, |text| {
            let found = words.iter().find(|word| **word == text);
            found.copied().ok_or_else(|| Refused(format!("must be one of {}", words.join(", "))))
        })
    }

    /// A whole number of `range`.
    pub(super) fn number(&mut self, name: &str, range: std::ops::RangeInclusive<u32>) -> Option<u32> {
        self.parsed(name, |text| {
            let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            let number = plain.then(|| text.parse().ok()).flatten().filter(|number| range.contains(number));
            number.ok_or_else(|| Refused(format!("must be a whole number from {} to {}", range.start(), range.end())))
        })
    }

    /// Notes that `name` is wrong.
    pub(super) fn refuse(&mut self, name: &str, code: &'static str, detail: impl Into<String>) {
        self.errors.push(FieldError::parameter(name, code, detail));
    }

    /// Call after the last parameter.
    ///
    /// # Errors
    /// 400 with everything that is wrong, unknown parameters included.
    pub(super) fn finish(mut self) -> ApiResult<()> {
        self.pairs.sort();
        self.pairs.dedup_by(|a, b| a.0 == b.0);
        for (name, _) in &self.pairs {
            let known = if self.known.is_empty() { "none".to_owned() } else { self.known.join(", ") };
            let shown: String = name.chars().take(64).collect();
            self.errors.push(FieldError::parameter(&shown, "unknown", format!("is not known here; known: {known}")));
        }
        if self.errors.is_empty() { Ok(()) } else { Err(ApiError::fields(Code::InvalidParameters, self.errors)) }
    }
}
