//! `GET /v1/sentiment-social`: lists of posts.

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, get};

use super::auth::{Caller, Read};
use super::conditions::{Prefer, negotiate};
use super::cursor;
use super::post::{LABELS, PostPage};
use super::post_json::{Fields, POST_BYTES};
use super::post_sort::{self, Order, PlaceValue};
use super::posts::{JSON, PATH};
use super::posts_list_sql::{self, Filter, Page};
use super::problem::{ApiError, ApiResult, Problem};
use super::query::Query;
use super::state::{State, Worker};

const LIMIT_DEFAULT: u32 = 50;
const LIMIT_MAX: u32 = 200;
/// First byte of a cursor: which way it leads.
const FORWARD: u8 = 0;
const BACKWARD: u8 = 1;

/// What a request asks for.
struct Asked {
    filter: Filter,
    order: Order,
    fields: Fields,
    limit: u32,
    /// The place to begin at, and whether to go backward from it.
    from: Option<(Vec<PlaceValue>, bool)>,
    prefer: Prefer,
}

/// A page as it is sent.
struct Answered {
    body: Vec<u8>,
    next: Option<String>,
    prev: Option<String>,
}

/// Lists posts, newest first or as `sort` says.
///
/// Pages stay right while posts are added and removed: a cursor names a row's place, not a number of rows. It belongs to
/// the filters and the sort it was made for; `limit` and `fields` may change between pages. `prev` is null on a page that was not
/// reached by a cursor.
#[utoipa::path(
    tag = "posts",
    params(
        ("platform" = Option<String>, Query, min_length = 1, pattern = "^[^\\u0000]+$", description = "Only this platform"),
        ("label" = Option<super::post::Label>, Query, description = "Only this sentiment label"),
        ("author" = Option<String>, Query, min_length = 1, pattern = "^[^\\u0000]+$", description = "Only this author"),
        ("topic" = Option<String>, Query, min_length = 1, pattern = "^[^\\u0000]+$", description = "Only this topic"),
        ("lang" = Option<String>, Query, min_length = 1, pattern = "^[^\\u0000]+$", description = "Only this language"),
        ("hashtag" = Option<String>, Query, min_length = 1, pattern = "^[^\\u0000]+$", description = "Only posts with this hashtag, written without the sign"),
        ("q" = Option<String>, Query, min_length = 1, pattern = "^[^\\u0000]+$", description = "Only posts whose content contains this text, in any case; no sign in it has a meaning"),
        ("posted_from" = Option<String>, Query, format = DateTime, description = "First posted_at that counts: RFC 3339 time or date"),
        ("posted_to" = Option<String>, Query, format = DateTime, description = "First posted_at that no longer counts"),
        ("sort" = Option<String>, Query, pattern = "^(newest|oldest|-?(id|posted_at|created_at|updated_at|platform|sentiment_label|sentiment_score|confidence|likes|replies|shares)(,-?(id|posted_at|created_at|updated_at|platform|sentiment_label|sentiment_score|confidence|likes|replies|shares)){0,3})$", description = "`newest` (without), `oldest`, or up to four of id, posted_at, created_at, updated_at, platform, sentiment_label, sentiment_score, confidence, likes, replies, shares with commas; `-` before one: highest first. The id settles ties; a score that is null is below all others"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 200, description = "Posts a page; 50 without"),
        ("cursor" = Option<String>, Query, description = "`next` or `prev` of another page"),
        ("fields" = Option<String>, Query, pattern = "^(id|platform|post_id|author|content|lang|topic|hashtags|sentiment_label|sentiment_score|confidence|likes|replies|shares|model_name|raw|posted_at|created_at|updated_at|row_version)(,(id|platform|post_id|author|content|lang|topic|hashtags|sentiment_label|sentiment_score|confidence|likes|replies|shares|model_name|raw|posted_at|created_at|updated_at|row_version))*$", description = "Members of the posts, with commas; all without"),
        ("Prefer" = Option<String>, Header, description = "count=exact: `total` says how many posts match, counted one by one; count=estimated: the planner's guess, at once"),
    ),
    responses(
        (status = 200, body = PostPage, headers(
            ("Link" = Option<String>, description = "rel=\"next\" and rel=\"prev\": the pages beside this one"),
            ("Preference-Applied" = Option<String>, description = "count=exact or count=estimated"),
        )),
        (status = 400, body = Problem, description = "invalid-parameters or invalid-cursor"),
        (status = 401, body = Problem), (status = 403, body = Problem), (status = 406, body = Problem),
        (status = 503, body = Problem), (status = 504, body = Problem),
    )
)]
#[get("/sentiment-social")]
pub(crate) async fn list_posts(state: State, _caller: Caller<Read>, request: HttpRequest) -> ApiResult<HttpResponse> {
    negotiate(&request, &[JSON])?;
    let asked = read(&request)?;
    let page = list(&state, &asked).await?;
    let mut response = HttpResponse::Ok();
    let links: Vec<String> = [("next", &page.next), ("prev", &page.prev)]
        .into_iter()
        .filter_map(|(rel, cursor)| Some(format!("<{}>; rel=\"{rel}\"", other_page(&request, cursor.as_ref()?))))
        .collect();
    if !links.is_empty() {
        response.insert_header((header::LINK, links.join(", ")));
    }
    if let Some(count) = asked.prefer.count {
        response.insert_header(("preference-applied", count.applied()));
    }
    Ok(response.content_type(JSON).body(page.body))
}

fn read(request: &HttpRequest) -> ApiResult<Asked> {
    let mut query = Query::of(request)?;
    let mut filter = Filter::default();
    for column in ["platform", "author", "topic", "lang"] {
        filter.equal.extend(query.filter(column).map(|value| (column, value)));
    }
    filter.equal.extend(query.word("label", &LABELS).map(|label| ("sentiment_label", label.to_owned())));
    filter.hashtag = query.filter("hashtag");
    filter.text = query.filter("q");
    filter.posted_from = query.moment("posted_from");
    filter.posted_to = query.moment("posted_to");
    let order = query.parsed("sort", Order::parse);
    let limit = query.number("limit", 1..=LIMIT_MAX).unwrap_or(LIMIT_DEFAULT);
    let fields = query.parsed("fields", Fields::parse).unwrap_or_default();
    let cursor = query.text("cursor");
    query.finish()?;
    let order = match order {
        Some(order) => order,
        None => Order::parse("newest").map_err(|refused| ApiError::internal(refused.0))?,
    };
    let place = |text: String| {
        let bytes = cursor::read(&filter.identity(&order), &text)?;
        let (way, place) = bytes.split_first().ok_or_else(cursor::invalid)?;
        Ok::<_, ApiError>((order.decode(place).ok_or_else(cursor::invalid)?, *way == BACKWARD))
    };
    let from = cursor.map(place).transpose()?;
    Ok(Asked { filter, order, fields, limit, from, prefer: Prefer::of(request) })
}

async fn list(worker: &Worker, asked: &Asked) -> ApiResult<Answered> {
    let backward = asked.from.as_ref().is_some_and(|(_, backward)| *backward);
    let page = Page {
        filter: &asked.filter,
        order: &asked.order,
        fields: &asked.fields,
        from: asked.from.as_ref().map(|(place, _)| place.as_slice()),
        backward,
        // One more than asked for tells whether there is another page.
        limit: i64::from(asked.limit) + 1,
    };
    let (mut rows, total) = worker
        .query(async |client| {
            let client = &***client;
            let Some(how) = asked.prefer.count else { return Ok((posts_list_sql::rows(client, &page).await?, None)) };
            let (rows, total) =
                tokio::join!(posts_list_sql::rows(client, &page), posts_list_sql::count(client, &asked.filter, how));
            Ok((rows?, Some(total?)))
        })
        .await?;
    let limit = usize::try_from(asked.limit)?;
    let more = rows.len() > limit;
    rows.truncate(limit);
    if backward {
        rows.reverse();
    }
    let identity = asked.filter.identity(&asked.order);
    let cursor = |row: Option<&tokio_postgres::Row>, way: u8| -> ApiResult<Option<String>> {
        let Some(row) = row else { return Ok(None) };
        let mut place = vec![way];
        place.extend(post_sort::encode(&asked.order.place_of(row, asked.fields.len())?));
        Ok(Some(cursor::write(&identity, &place)))
    };
    let (has_next, has_prev) = if backward { (true, more) } else { (more, asked.from.is_some()) };
    let next = if has_next { cursor(rows.last(), FORWARD)? } else { None };
    let prev = if has_prev { cursor(rows.first(), BACKWARD)? } else { None };
    let mut body = Vec::with_capacity(rows.len() * POST_BYTES + 128);
    body.extend_from_slice(b"{\"items\":[");
    for (at, row) in rows.iter().enumerate() {
        if at > 0 {
            body.push(b',');
        }
        asked.fields.write(row, &mut body)?;
    }
    body.extend_from_slice(b"],\"next\":");
    serde_json::to_writer(&mut body, &next).map_err(ApiError::internal)?;
    body.extend_from_slice(b",\"prev\":");
    serde_json::to_writer(&mut body, &prev).map_err(ApiError::internal)?;
    if let Some(total) = total {
        body.extend_from_slice(format!(",\"total\":{total}").as_bytes());
    }
    body.push(b'}');
    Ok(Answered { body, next, prev })
}

/// The request's path and parameters with another cursor.
fn other_page(request: &HttpRequest, cursor: &str) -> String {
    let kept = request.query_string().split('&').filter(|pair| !pair.is_empty() && !pair.starts_with("cursor="));
    let pairs: Vec<&str> = kept.collect();
    let separator = if pairs.is_empty() { "" } else { "&" };
    format!("{PATH}?{}{separator}cursor={cursor}", pairs.join("&"))
}
