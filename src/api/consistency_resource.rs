//! `GET /v1/consistency/{token}`: whether the mirror has a write, or how far it is from it.

use actix_web::web::Path;
use actix_web::{HttpRequest, HttpResponse, get};
use chrono::Utc;
use serde::Serialize;
use utoipa::ToSchema;

use super::auth::{Caller, Read};
use super::conditions::{Prefer, negotiate};
use super::consistency;
use super::problem::{ApiError, ApiResult, Code, Problem};
use super::query::Query;
use super::state::State;
use crate::domain::{Lsn, Token};

/// How far the mirror is from a write.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Consistency {
    /// Whether analytics show the write.
    pub applied: bool,
    /// Number of the log that both positions belong to.
    pub log: u16,
    /// Position that the token asks for.
    #[schema(example = "0/1A2B3C8")]
    pub required_lsn: String,
    /// Everything committed below is applied; null before the first load.
    #[schema(required = true, example = "0/1A2B3C8")]
    pub applied_lsn: Option<String>,
    /// Bytes of the log between the two; 0 when applied.
    pub lag_bytes: u64,
    /// Milliseconds since the newest applied change was committed; null before the first load.
    #[schema(required = true)]
    pub lag_ms: Option<i64>,
    /// How long this request has waited.
    pub waited_ms: u64,
    /// Why no change reaches the analytics now; null when nothing speaks against it, or the write is applied.
    #[schema(required = true)]
    pub pipeline_down: Option<String>,
}

/// Whether analytics show a write.
///
/// The token is that of the write's `X-Consistency-Token`. With `Prefer: wait=5` the answer comes as soon as the write is there, and
/// after 5 seconds at the latest; a pipeline that is down is not waited for.
#[utoipa::path(
    tag = "consistency",
    params(
        ("token" = String, Path, description = "A consistency token", example = "v1.1.16b374d848"),
        ("Prefer" = Option<String>, Header, description = "`wait=N`: seconds to wait, at most 30", example = "wait=5"),
    ),
    responses(
        (status = 200, body = Consistency, headers(("Preference-Applied" = Option<String>, description = "The wait that was granted"))),
        (status = 400, body = Problem, description = "invalid-consistency-token"), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 406, body = Problem), (status = 409, body = Problem, description = "other-log"), (status = 503, body = Problem),
    )
)]
#[get("/consistency/{token}")]
pub(crate) async fn get_consistency(
    state: State,
    _caller: Caller<Read>,
    token: Path<String>,
    request: HttpRequest,
) -> ApiResult<HttpResponse> {
    Query::none(&request)?;
    negotiate(&request, &["application/json"])?;
    let bad = |_| ApiError::new(Code::InvalidToken, "the path must end in one token as a write answered it");
    let token: Token = token.parse().map_err(bad)?;
    let prefer = Prefer { lenient: false, ..Prefer::of(&request) };
    let verdict = consistency::judge(&state, token, prefer.wait).await?;
    let watermark = verdict.seen.checkpoint.as_ref().map(|checkpoint| checkpoint.watermark);
    let mut response = HttpResponse::Ok();
    if let Some(applied) = consistency::applied(&prefer) {
        response.insert_header(("preference-applied", applied));
    }
    Ok(response.json(Consistency {
        applied: verdict.satisfied,
        log: token.log,
        required_lsn: token.lsn.to_string(),
        applied_lsn: watermark.map(|watermark| watermark.to_string()),
        lag_bytes: token.lsn.get().saturating_sub(watermark.map_or(0, Lsn::get)),
        lag_ms: verdict.seen.lag_ms(Utc::now()),
        waited_ms: u64::try_from(verdict.waited.as_millis())?,
        pipeline_down: verdict.down,
    }))
}
