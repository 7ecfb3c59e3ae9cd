//! Conditional requests and preferences: `If-Match`, `If-None-Match` (RFC 9110), `Prefer` (RFC 7240), `Accept`.

use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::http::header::{self, HeaderMap, HeaderName};

use super::problem::{ApiError, ApiResult, Code};

/// What a list of entity tags says about the current one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum IfMatch {
    /// The header is absent.
    Anything,
    /// `*`: whatever there is.
    Existing,
    /// One of these versions; tags that are not ours never match.
    Versions(Vec<i64>),
}

impl IfMatch {
    /// Reads `If-Match`. Weak tags do not match (strong comparison).
    ///
    /// # Errors
    /// 400 when the header is not a list of entity tags.
    pub(super) fn of(request: &HttpRequest) -> ApiResult<Self> {
        let Some(tags) = entity_tags(request.headers(), &header::IF_MATCH)? else { return Ok(Self::Anything) };
        if tags.iter().any(|(_, tag)| tag == "*") {
            return Ok(Self::Existing);
        }
        Ok(Self::Versions(tags.into_iter().filter(|(weak, _)| !weak).filter_map(|(_, tag)| tag.parse().ok()).collect()))
    }

    /// As `of`; where `api.require_if_match` is set, the header must be there.
    ///
    /// # Errors
    /// 428 without it, 400 as `of`.
    pub(super) fn required(request: &HttpRequest, required: bool) -> ApiResult<Self> {
        match Self::of(request)? {
            Self::Anything if required => {
                Err(ApiError::new(Code::PreconditionRequired, "send If-Match with the ETag that you have read"))
            }
            given => Ok(given),
        }
    }

    /// Whether a resource of this version may be changed.
    ///
    /// # Errors
    /// 412 when not.
    pub(super) fn check(&self, version: i64) -> ApiResult<()> {
        match self {
            Self::Anything | Self::Existing => Ok(()),
            Self::Versions(versions) if versions.contains(&version) => Ok(()),
            Self::Versions(_) => Err(ApiError::new(Code::PreconditionFailed, "the current ETag is another one")),
        }
    }
}

/// Whether `If-None-Match` names this version, so that 304 is the answer (weak comparison).
///
/// # Errors
/// 400 when the header is not a list of entity tags.
pub(super) fn none_match(request: &HttpRequest, version: i64) -> ApiResult<bool> {
    let tags = entity_tags(request.headers(), &header::IF_NONE_MATCH)?;
    Ok(tags.is_some_and(|tags| tags.iter().any(|(_, tag)| tag == "*" || tag.parse() == Ok(version))))
}

/// What `If-None-Match` lists: the tags without their quotes, `*` as itself; `None` without the header.
///
/// # Errors
/// 400 when the header is not a list of entity tags.
pub(super) fn none_match_tags(request: &HttpRequest) -> ApiResult<Option<Vec<String>>> {
    let tags = entity_tags(request.headers(), &header::IF_NONE_MATCH)?;
    Ok(tags.map(|tags| tags.into_iter().map(|(_, tag)| tag).collect()))
}

/// Which stored answers a request accepts (`Cache-Control`, RFC 9111).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct CacheControl {
    /// `no-cache`: none.
    pub no_cache: bool,
    /// `no-store`: none, and the new one must not be kept either.
    pub no_store: bool,
}

impl CacheControl {
    /// Reads every `Cache-Control` header; directives for other caches are ignored.
    pub(super) fn of(request: &HttpRequest) -> Self {
        let values = request.headers().get_all(header::CACHE_CONTROL).filter_map(|value| value.to_str().ok());
        let directives = values.flat_map(|value| value.split(','));
        directives.map(|directive| directive.trim().to_ascii_lowercase()).fold(Self::default(), |seen, directive| {
            Self {
                no_cache: seen.no_cache || matches!(directive.as_str(), "no-cache" | "no-store"),
                no_store: seen.no_store || directive == "no-store",
            }
        })
    }
}

/// The tags of a header, each with whether it is weak; `*` as itself; `None` without the header.
///
/// # Errors
/// 400 when it is no list of entity tags.
pub(super) fn entity_tags(headers: &HeaderMap, name: &HeaderName) -> ApiResult<Option<Vec<(bool, String)>>> {
    let bad = || ApiError::new(Code::InvalidHeader, format!("{name} must be * or a list of entity tags such as \"7\""));
    let mut tags = Vec::new();
    let mut given = false;
    for value in headers.get_all(name) {
        given = true;
        let mut rest = value.to_str().map_err(|_| bad())?;
        loop {
            let (tag, after) = first_tag(rest.trim_start()).ok_or_else(bad)?;
            tags.push(tag);
            match after.trim_start().strip_prefix(',') {
                Some(after) => rest = after,
                None if after.trim().is_empty() => break,
                None => return Err(bad()),
            }
        }
    }
    Ok(given.then_some(tags))
}

/// The tag at the beginning of `text`, and what follows. A tag may have commas in it (RFC 9110, section 8.8.3).
fn first_tag(text: &str) -> Option<((bool, String), &str)> {
    if let Some(rest) = text.strip_prefix('*') {
        return Some(((false, "*".to_owned()), rest));
    }
    let (weak, quoted) = text.strip_prefix("W/").map_or((false, text), |rest| (true, rest));
    let (inside, rest) = quoted.strip_prefix('"')?.split_once('"')?;
    Some(((weak, inside.to_owned()), rest))
}

/// Longest wait that a request may ask for.
pub(super) const WAIT_S_MAX: u64 = 30;

/// The preferences that this API knows. Others are ignored, as RFC 7240 wants it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Prefer {
    /// `return=minimal`: no body after a write.
    pub minimal: bool,
    /// `wait=N`: how long an analytics request may wait for its consistency token.
    pub wait: Option<Duration>,
    /// `handling=lenient`: an answer that has not seen the token's write is better than none.
    pub lenient: bool,
    /// `count=exact` or `count=estimated`: a list says how many there are altogether.
    pub count: Option<Count>,
}

/// How a list is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Count {
    /// Row by row.
    Exact,
    /// As the database's planner guesses: at once, and roughly right.
    Estimated,
}

impl Count {
    /// What `Preference-Applied` says.
    pub(super) fn applied(self) -> &'static str {
        match self {
            Self::Exact => "count=exact",
            Self::Estimated => "count=estimated",
        }
    }
}

impl Prefer {
    /// Reads every `Prefer` header.
    pub(super) fn of(request: &HttpRequest) -> Self {
        let mut prefer = Self::default();
        let values = request.headers().get_all("prefer").filter_map(|value| value.to_str().ok());
        for preference in values.flat_map(|value| value.split(',')) {
            let preference = preference.split(';').next().unwrap_or_default();
            let (name, value) = preference.split_once('=').unwrap_or((preference, ""));
            let value = value.trim().trim_matches('"');
            match name.trim().to_ascii_lowercase().as_str() {
                "return" if value == "minimal" => prefer.minimal = true,
                "count" if value == "exact" => prefer.count = Some(Count::Exact),
                "count" if value == "estimated" => prefer.count = Some(Count::Estimated),
                "handling" if value.eq_ignore_ascii_case("lenient") => prefer.lenient = true,
                "wait" if prefer.wait.is_none() => {
                    let seconds = value.parse::<u64>().ok();
                    prefer.wait = seconds.map(|seconds| Duration::from_secs(seconds.min(WAIT_S_MAX)));
                }
                _ => {}
            }
        }
        prefer
    }
}

/// The first of `offers` that `Accept` allows; without the header the first one.
///
/// # Errors
/// 406 that lists the offers.
pub(super) fn negotiate<'a>(request: &HttpRequest, offers: &[&'a str]) -> ApiResult<&'a str> {
    let values: Vec<&str> = request
        .headers()
        .get_all(header::ACCEPT)
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .collect();
    let Some(first) = offers.first() else { return Err(ApiError::internal("no format is offered")) };
    if values.is_empty() {
        return Ok(first);
    }
    let mut best: Option<(&str, f32)> = None;
    for offer in offers {
        let quality = quality_of(offer, &values);
        if quality > 0.0 && best.is_none_or(|(_, known)| quality > known) {
            best = Some((offer, quality));
        }
    }
    best.map(|(offer, _)| offer)
        .ok_or_else(|| ApiError::new(Code::NotAcceptable, format!("the formats are {}", offers.join(", "))))
}

/// The quality that the most specific range of an `Accept` header gives to a media type.
fn quality_of(offer: &str, ranges: &[&str]) -> f32 {
    let mut found: Option<(u8, f32)> = None;
    for range in ranges {
        let mut parts = range.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
        let quality = parts.find_map(|part| part.strip_prefix("q=")).map_or(Some(1.0), |text| text.parse::<f32>().ok());
        let specific = match kind.strip_suffix("/*") {
            Some("*") => 1,
            Some(main) if offer.split('/').next() == Some(main) => 2,
            None if kind == offer => 3,
            _ => continue,
        };
        if let Some(quality) = quality
            && found.is_none_or(|(known, _)| specific > known)
        {
            found = Some((specific, quality));
        }
    }
    found.map_or(0.0, |(_, quality)| quality)
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::test::TestRequest;

    fn request(name: &'static str, value: &str) -> HttpRequest {
        TestRequest::default().insert_header((name, value)).to_http_request()
    }

    #[test]
    fn if_match_compares_strongly() {
        for (value, version, matches) in [
            ("\"7\"", 7, true),
            ("\"7\"", 8, false),
            ("\"1\", \"8\"", 8, true),
            ("*", 1, true),
            ("W/\"7\"", 7, false),
            ("\"x\"", 7, false),
        ] {
            assert_eq!(
                IfMatch::of(&request("if-match", value)).expect("tags").check(version).is_ok(),
                matches,
                "{value}"
            );
        }
        assert!(IfMatch::of(&request("if-match", "7")).is_err());
        assert!(none_match(&request("if-none-match", "W/\"7\""), 7).expect("tags"));
        assert!(!none_match(&request("if-none-match", "\"6\""), 7).expect("tags"));
    }

    #[test]
    fn preferences_are_read_and_others_ignored() {
        let prefer = Prefer::of(&request("prefer", "respond-async, wait=100; x=1, return=\"minimal\""));
        assert_eq!(prefer, Prefer { minimal: true, wait: Some(Duration::from_secs(30)), count: None, lenient: false });
        assert_eq!(Prefer::of(&request("prefer", "count=exact")).count, Some(Count::Exact));
        assert!(Prefer::of(&request("prefer", "wait=2, handling=lenient")).lenient);
        assert_eq!(Prefer::of(&request("prefer", "wait=soon, return=representation")), Prefer::default());
    }

    #[test]
    fn cache_control_of_requests_is_read() {
        let of = |value| CacheControl::of(&request("cache-control", value));
        assert_eq!(of("max-age=0, No-Cache"), CacheControl { no_cache: true, no_store: false });
        assert_eq!(of("no-store"), CacheControl { no_cache: true, no_store: true });
        assert_eq!(of("only-if-cached"), CacheControl::default());
    }

    #[test]
    fn the_best_acceptable_format_is_chosen() {
        const OFFERS: [&str; 3] = ["application/json", "application/x-ndjson", "text/csv"];
        for (accept, expected) in [
            ("*/*", Some("application/json")),
            ("text/csv", Some("text/csv")),
            ("text/*;q=0.5, application/json;q=0.4", Some("text/csv")),
            ("application/json;q=0, */*", Some("application/x-ndjson")),
            ("text/html,application/xhtml+xml,*/*;q=0.8", Some("application/json")),
            ("image/png", None),
        ] {
            assert_eq!(negotiate(&request("accept", accept), &OFFERS).ok(), expected, "{accept}");
        }
        assert_eq!(negotiate(&TestRequest::default().to_http_request(), &OFFERS).ok(), Some("application/json"));
    }
}
