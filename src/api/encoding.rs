//! Compressed request bodies: decoded under the same limit of bytes as plain ones, so that a small body cannot become a large
//! one.

use std::io::{BufReader, Read};

use actix_web::HttpRequest;
use actix_web::http::header;
use actix_web::web::Bytes;

use super::problem::{ApiError, ApiResult, Code};

/// A larger zstd window would let a few bytes ask for much memory. 8 MiB is what senders use up to level 19.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;
/// What `Accept-Encoding` says in a 415.
const ACCEPTED: &str = "gzip, zstd, identity";

/// How a body is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    /// Not at all.
    Identity,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

impl Encoding {
    /// The body's, by `Content-Encoding`.
    ///
    /// # Errors
    /// 415 that lists those that are known.
    pub(super) fn of(request: &HttpRequest) -> ApiResult<Self> {
        let mut values = request.headers().get_all(header::CONTENT_ENCODING);
        let Some(value) = values.next() else { return Ok(Self::Identity) };
        let word = value.to_str().unwrap_or_default().trim().to_ascii_lowercase();
        match (word.as_str(), values.next()) {
            ("identity", None) => Ok(Self::Identity),
            ("gzip" | "x-gzip", None) => Ok(Self::Gzip),
            ("zstd", None) => Ok(Self::Zstd),
            _ => Err(ApiError::new(
                Code::UnsupportedMediaType,
                "a body may be compressed once, with Content-Encoding: gzip or zstd",
            )
            .header(header::ACCEPT_ENCODING, ACCEPTED)),
        }
    }

    /// The body as it was before it was compressed.
    ///
    /// # Errors
    /// 413 when it has more than `bytes_max` bytes, 400 when it is not of this form.
    pub(super) fn decode(self, body: Bytes, bytes_max: usize) -> ApiResult<Bytes> {
        let wrong = || ApiError::new(Code::BadRequest, "the body is not compressed as Content-Encoding says");
        match self {
            Self::Identity => Ok(body),
            Self::Gzip => read_all(flate2::bufread::MultiGzDecoder::new(BufReader::new(&*body)), bytes_max, wrong),
            Self::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::new(&*body).map_err(ApiError::internal)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(ApiError::internal)?;
                read_all(decoder, bytes_max, wrong)
            }
        }
    }
}

fn read_all(reader: impl Read, bytes_max: usize, wrong: impl Fn() -> ApiError) -> ApiResult<Bytes> {
    let mut decoded = Vec::new();
    let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX).saturating_add(1);
    reader.take(limit).read_to_end(&mut decoded).map_err(|_| wrong())?;
    if decoded.len() > bytes_max {
        return Err(ApiError::new(
            Code::BodyTooLarge,
            format!("a body may have {bytes_max} bytes after decompression"),
        ));
    }
    Ok(Bytes::from(decoded))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn gzip(bytes: &[u8]) -> Bytes {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).expect("written");
        Bytes::from(encoder.finish().expect("finished"))
    }

    #[test]
    fn bodies_are_decoded_up_to_the_limit() {
        let plain = vec![b' '; 1000];
        for (encoding, packed) in [
            (Encoding::Gzip, gzip(&plain)),
            (Encoding::Zstd, Bytes::from(zstd::encode_all(&*plain, 3).expect("packed"))),
        ] {
            assert_eq!(encoding.decode(packed.clone(), 1000).expect("fits"), plain);
            assert_eq!(encoding.decode(packed.clone(), 999).expect_err("too large").code(), Code::BodyTooLarge);
            let broken = packed.slice(..packed.len() - 5);
            assert_eq!(encoding.decode(broken, 1000).expect_err("broken").code(), Code::BadRequest);
            assert_eq!(encoding.decode(Bytes::from_static(b"{}"), 1000).expect_err("plain").code(), Code::BadRequest);
        }
    }

    #[test]
    fn bombs_are_cut_off() {
        let bomb = gzip(&vec![0; 64 << 20]);
        assert!(bomb.len() < 100_000);
        assert_eq!(Encoding::Gzip.decode(bomb, 1 << 20).expect_err("too large").code(), Code::BodyTooLarge);
        let bomb = Bytes::from(zstd::encode_all(&*vec![0; 64 << 20], 19).expect("packed"));
        assert_eq!(Encoding::Zstd.decode(bomb, 1 << 20).expect_err("too large").code(), Code::BodyTooLarge);
    }
}
