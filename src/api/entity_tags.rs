//! Entity tags of answers that are compressed (RFC 9110, section 8.8.3.3): a strong tag stands for certain bytes, so each
//! coding has its own. The answer that is `"7"` as it is, is `"7-gzip"` as gzip; handlers know only `"7"`.

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::StatusCode;
use actix_web::http::header::{self, AcceptEncoding, Encoding, HeaderMap, HeaderName, HeaderValue};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage as _};

use super::conditions::entity_tags;

/// The codings of the framework's `Compress`, as tags name them.
const CODINGS: [&str; 4] = ["br", "deflate", "gzip", "zstd"];

/// Gives each coding tags of its own. Goes around `Compress`.
///
/// # Errors
/// Those of what it goes around.
pub(super) async fn by_coding<B: MessageBody + 'static>(
    mut request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<B>, Error> {
    // A change is made to the post, in whichever coding the client has read it.
    rewrite(request.headers_mut(), &header::IF_MATCH, |tag| Some(split(tag).0));
    let mut asked = None;
    if request.headers().contains_key(header::IF_NONE_MATCH) {
        asked = chosen(&request);
        // What the client has in another coding is not what it would get now.
        rewrite(request.headers_mut(), &header::IF_NONE_MATCH, |tag| {
            let (plain, coding) = split(tag);
            (tag == "*" || coding == asked).then_some(plain)
        });
    }
    let mut response = next.call(request).await?;
    let sent = response.headers().get(header::CONTENT_ENCODING).and_then(|coding| known(coding.to_str().ok()?));
    // 304 has the tag that the whole answer would have had.
    let coding = if response.status() == StatusCode::NOT_MODIFIED { asked } else { sent };
    if let Some(coding) = coding {
        name_coding(response.headers_mut(), coding);
    }
    Ok(response)
}

/// The coding that `Compress` chooses for this request's answer; `None` is the answer as it is.
fn chosen(request: &ServiceRequest) -> Option<&'static str> {
    let accepted = request.get_header::<AcceptEncoding>()?;
    let supported = [Encoding::identity(), Encoding::brotli(), Encoding::deflate(), Encoding::gzip(), Encoding::zstd()];
    known(&accepted.negotiate(supported.iter())?.to_string())
}

fn known(coding: &str) -> Option<&'static str> {
    CODINGS.into_iter().find(|known| *known == coding)
}

/// A tag as handlers know it, and its coding.
fn split(tag: &str) -> (&str, Option<&'static str>) {
    let parts = tag.rsplit_once('-').and_then(|(plain, coding)| Some((plain, known(coding)?)));
    parts.map_or((tag, None), |(plain, coding)| (plain, Some(coding)))
}

/// Passes every tag of a header through `kept`, and leaves out those of `None`. A header that is no list of tags stays as it
/// is, for the handler to refuse.
fn rewrite(headers: &mut HeaderMap, name: &HeaderName, kept: impl Fn(&str) -> Option<&str>) {
    let Ok(Some(tags)) = entity_tags(headers, name) else { return };
    let written = tags.iter().filter_map(|(weak, tag)| {
        let (mark, tag) = (if *weak { "W/" } else { "" }, kept(tag)?);
        Some(if tag == "*" { tag.to_owned() } else { format!("{mark}\"{tag}\"") })
    });
    let written: Vec<String> = written.collect();
    headers.remove(name);
    if let (false, Ok(value)) = (written.is_empty(), HeaderValue::from_str(&written.join(", "))) {
        headers.insert(name.clone(), value);
    }
}

fn name_coding(headers: &mut HeaderMap, coding: &str) {
    let tag = headers.get(header::ETAG).and_then(|tag| tag.to_str().ok()?.strip_suffix('"'));
    if let Some(value) = tag.and_then(|tag| HeaderValue::from_str(&format!("{tag}-{coding}\"")).ok()) {
        headers.insert(header::ETAG, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::test::TestRequest;

    #[test]
    fn a_coding_is_the_last_word_of_a_tag() {
        for (tag, plain, coding) in [
            ("7", "7", None),
            ("7-gzip", "7", Some("gzip")),
            ("ab12-cd34", "ab12-cd34", None),
            ("ab12-cd34-br", "ab12-cd34", Some("br")),
            ("7-gzip-zstd", "7-gzip", Some("zstd")),
            ("*", "*", None),
        ] {
            assert_eq!(split(tag), (plain, coding), "{tag}");
        }
    }

    #[test]
    fn the_coding_is_chosen_as_the_framework_does() {
        for (accepted, coding) in [
            (None, None),
            (Some("gzip"), Some("gzip")),
            (Some("gzip;q=0.5, zstd"), Some("zstd")),
            (Some("identity, br;q=0.1"), None),
            (Some("compress"), None),
            (Some("*"), None),
            (Some("gzip;q=nonsense"), None),
        ] {
            let request = TestRequest::default();
            let request = match accepted {
                Some(accepted) => request.insert_header((header::ACCEPT_ENCODING, accepted)),
                None => request,
            };
            assert_eq!(chosen(&request.to_srv_request()), coding, "{accepted:?}");
        }
    }

    #[test]
    fn only_lists_of_tags_are_rewritten() {
        for (given, expected) in [
            ("\"7-gzip\"", Some("\"7\"")),
            ("W/\"7-gzip\",\"8\" , \"9-br\"", Some("W/\"7\", \"8\", \"9\"")),
            ("*", Some("*")),
            ("7-gzip", Some("7-gzip")),
            ("\"drop\"", None),
            ("\"drop\", \"1\"", Some("\"1\"")),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_MATCH, HeaderValue::from_static(given));
            rewrite(&mut headers, &header::IF_MATCH, |tag| (tag != "drop").then_some(split(tag).0));
            let found = headers.get(header::IF_MATCH).map(|value| value.to_str().expect("a text"));
            assert_eq!(found, expected, "{given}");
        }
    }
}
