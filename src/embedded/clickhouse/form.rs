//! Parameters as parts of `multipart/form-data`, the way newer clients send them: not limited in length as URLs are.

use actix_web::HttpRequest;
use actix_web::web::{BytesMut, Payload};
use futures_util::StreamExt as _;
use multer::Multipart;

use super::exception::{self, Exception};
use super::request::Fields;

/// Bytes of all parts together; a statement in a form has the limit of any other.
const FORM_BYTES_MAX: usize = 16 << 20;

/// The parts of a form; `None` if the body is none.
///
/// # Errors
/// A form that cannot be read, is too large or brings external tables.
pub(super) async fn read(http: &HttpRequest, payload: &mut Payload) -> Result<Option<Fields>, Exception> {
    let content_type = http.headers().get("Content-Type").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let Ok(boundary) = multer::parse_boundary(content_type) else { return Ok(None) };
    let body = whole(payload).await?;
    let pieces = futures_util::stream::once(std::future::ready(Ok::<_, std::convert::Infallible>(body)));
    let mut form = Multipart::new(pieces, boundary);
    let mut fields = Fields::new();
    while let Some(field) = form.next_field().await.map_err(unreadable)? {
        if field.file_name().is_some() {
            return Err(Exception::new(
                exception::NOT_IMPLEMENTED,
                "external tables are not supported: insert into a table, or pass an Array parameter",
            ));
        }
        let name = field.name().unwrap_or_default().to_owned();
        fields.push((name, field.text().await.map_err(unreadable)?));
    }
    Ok(Some(fields))
}

async fn whole(payload: &mut Payload) -> Result<actix_web::web::Bytes, Exception> {
    let mut body = BytesMut::new();
    while let Some(piece) = payload.next().await {
        let piece =
            piece.map_err(|_| Exception::new(exception::NETWORK_ERROR, "the client left before its form ended"))?;
        if body.len() + piece.len() > FORM_BYTES_MAX {
            return Err(Exception::new(exception::QUERY_IS_TOO_LARGE, "the form is larger than 16 MiB"));
        }
        body.extend_from_slice(&piece);
    }
    Ok(body.freeze())
}

fn unreadable(error: multer::Error) -> Exception {
    Exception::new(exception::BAD_ARGUMENTS, format_args!("the form cannot be read: {error}"))
}
