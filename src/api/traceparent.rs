//! W3C Trace Context: the trace that a request belongs to, for the log.

use actix_web::http::header::HeaderMap;

const TRACE_DIGITS: usize = 32;
const SPAN_DIGITS: usize = 16;

/// The trace id of a valid `traceparent`; a malformed one counts as absent, as the specification wants it.
pub(super) fn trace_id(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all("traceparent");
    let value = values.next()?.to_str().ok()?;
    if values.next().is_some() {
        return None;
    }
    parse(value)
}

fn parse(text: &str) -> Option<&str> {
    let mut parts = text.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let hex = |part: &str, digits: usize| {
        part.len() == digits && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let zero = |part: &str| part.bytes().all(|byte| byte == b'0');
    let known =
        hex(version, 2) && version != "ff" && hex(trace, TRACE_DIGITS) && hex(span, SPAN_DIGITS) && hex(flags, 2);
    // Version 00 ends here; a later version may say more.
    let ended = version != "00" || parts.next().is_none();
    (known && ended && !zero(trace) && !zero(span)).then_some(trace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_valid_ones_are_taken() {
        let trace = "0af7651916cd43dd8448eb211c80319c";
        for (text, expected) in [
            (format!("00-{trace}-b7ad6b7169203331-01"), Some(trace)),
            (format!("cc-{trace}-b7ad6b7169203331-01-more"), Some(trace)),
            (format!("00-{trace}-b7ad6b7169203331-01-more"), None),
            (format!("ff-{trace}-b7ad6b7169203331-01"), None),
            (format!("00-{}-b7ad6b7169203331-01", "0".repeat(32)), None),
            (format!("00-{trace}-{}-01", "0".repeat(16)), None),
            (format!("00-{}-b7ad6b7169203331-01", trace.to_uppercase()), None),
            (format!("00-{trace}-b7ad6b7169203331"), None),
            (String::new(), None),
        ] {
            assert_eq!(parse(&text), expected, "{text}");
        }
    }
}
