// minimal actix-web + deadpool-postgres + clickhouse crate: upper limit for a Rust server.  apirs PORT WORKERS POOL
use actix_web::{App, HttpResponse, HttpServer, web};
use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod};
use serde::{Deserialize, Serialize};
use chrono::{DateTime, Utc};
use tokio_postgres::{NoTls, Row, types::Type};
#[global_allocator] static G: mimalloc::MiMalloc = mimalloc::MiMalloc;
struct RawJson(String);
impl<'a> postgres_types::FromSql<'a> for RawJson {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> { Ok(RawJson(String::from_utf8(raw[1..].to_vec())?)) }
    fn accepts(t: &Type) -> bool { *t == Type::JSONB } }
#[derive(Serialize)] struct Post<'a> { id: i64, platform: &'a str, author: Option<&'a str>, content: &'a str, sentiment: &'a str, score: Option<f64>, lang: Option<&'a str>, tags: Option<Vec<&'a str>>, metadata: Option<Box<serde_json::value::RawValue>>, likes: i32, shares: i32, replies: Option<i32>, url: Option<&'a str>, external_id: Option<&'a str>, is_verified: bool, followers: Option<i64>, topic: Option<&'a str>, posted_at: DateTime<Utc>, created_at: DateTime<Utc>, updated_at: DateTime<Utc> }
fn post(r: &Row) -> Post<'_> { Post { id: r.get(0), platform: r.get(1), author: r.get(2), content: r.get(3), sentiment: r.get(4), score: r.get(5), lang: r.get(6), tags: r.get(7), metadata: r.get::<_, Option<RawJson>>(8).map(|x| serde_json::value::RawValue::from_string(x.0).unwrap()), likes: r.get(9), shares: r.get(10), replies: r.get(11), url: r.get(12), external_id: r.get(13), is_verified: r.get(14), followers: r.get(15), topic: r.get(16), posted_at: r.get(17), created_at: r.get(18), updated_at: r.get(19) } }
const COLS: &str = "id,platform,author,content,sentiment,score::float8 as score,lang,tags,metadata,likes,shares,replies,url,external_id,is_verified,followers,topic,posted_at,created_at,updated_at";
struct S { pg: Pool, ch: clickhouse::Client, one: String, list: String }
type E = Box<dyn std::error::Error>;
fn json(v: Vec<u8>) -> HttpResponse { HttpResponse::Ok().insert_header(("content-type", "application/json")).body(v) }
fn err(e: E) -> HttpResponse { eprintln!("{e}"); HttpResponse::InternalServerError().finish() }
async fn get(s: web::Data<S>, id: web::Path<i64>) -> HttpResponse {
    let f = async { let c = s.pg.get().await?; let st = c.prepare_cached(&s.one).await?; let r = c.query_opt(&st, &[&*id]).await?; Ok::<_, E>(match r { None => HttpResponse::NotFound().finish(), Some(r) => json(serde_json::to_vec(&post(&r))?) }) };
    f.await.unwrap_or_else(err) }
#[derive(Deserialize)] struct L { limit: Option<i64>, cursor: Option<i64> }
#[derive(Serialize)] struct Page<'a> { items: Vec<Post<'a>>, next_cursor: Option<i64> }
async fn list(s: web::Data<S>, q: web::Query<L>) -> HttpResponse {
    let f = async { let l = q.limit.unwrap_or(50).clamp(1, 200); let c = s.pg.get().await?; let st = c.prepare_cached(&s.list).await?; let r = c.query(&st, &[&q.cursor.unwrap_or(0), &l]).await?;
        let items: Vec<Post> = r.iter().map(post).collect(); let n = if items.len() as i64 == l { items.last().map(|x| x.id) } else { None }; Ok::<_, E>(json(serde_json::to_vec(&Page { items, next_cursor: n })?)) };
    f.await.unwrap_or_else(err) }
#[derive(Deserialize)] struct New { platform: String, author: Option<String>, content: String, sentiment: String, score: Option<f64>, lang: Option<String>, tags: Option<Vec<String>>, metadata: Option<serde_json::Value>, #[serde(default)] likes: i32, #[serde(default)] shares: i32, posted_at: DateTime<Utc> }
async fn create(s: web::Data<S>, p: web::Json<New>) -> HttpResponse {
    let f = async { let c = s.pg.get().await?; let st = c.prepare_cached("insert into posts_new(platform,author,content,sentiment,score,lang,tags,metadata,likes,shares,posted_at) values($1,$2,$3,$4,$5::float8::numeric,$6,$7,$8,$9,$10,$11) returning id").await?;
        let id: i64 = c.query_one(&st, &[&p.platform, &p.author, &p.content, &p.sentiment, &p.score, &p.lang, &p.tags, &p.metadata, &p.likes, &p.shares, &p.posted_at]).await?.get(0);
        Ok::<_, E>(HttpResponse::Created().insert_header(("content-type", "application/json")).body(format!("{{\"id\":{id}}}"))) };
    f.await.unwrap_or_else(err) }
#[derive(Deserialize)] struct R { from: DateTime<Utc>, to: DateTime<Utc> }
#[derive(clickhouse::Row, Deserialize, Serialize)] struct Sum { sentiment: String, count: u64, avg_score: Option<f64> }
async fn summary(s: web::Data<S>, q: web::Query<R>) -> HttpResponse {
    let f = async { let r = s.ch.query("select toString(sentiment) as sentiment,count() as count,avg(score) as avg_score from k.mirror where posted_at>=fromUnixTimestamp64Micro(?) and posted_at<fromUnixTimestamp64Micro(?) group by sentiment order by sentiment").bind(q.from.timestamp_micros()).bind(q.to.timestamp_micros()).fetch_all::<Sum>().await?; Ok::<_, E>(json(serde_json::to_vec(&r)?)) };
    f.await.unwrap_or_else(err) }
#[actix_web::main] async fn main() -> std::io::Result<()> {
    let a: Vec<String> = std::env::args().collect();
    let c: tokio_postgres::Config = std::env::var("PEER_POSTGRES").unwrap().parse().unwrap();
    let size: usize = a[3].parse().unwrap(); let mk = move || Pool::builder(Manager::from_config(c.clone(), NoTls, ManagerConfig { recycling_method: RecyclingMethod::Fast })).max_size(size).build().unwrap();
    let perw = std::env::var("PERW").is_ok(); // one pool per worker: the connection's driver task stays on the worker's own runtime
    let ch = clickhouse::Client::default().with_url(std::env::var("PEER_CLICKHOUSE").unwrap()).with_compression(clickhouse::Compression::None);
    let state = move || web::Data::new(S { pg: mk(), ch: ch.clone(), one: format!("select {COLS} from social where id=$1"), list: format!("select {COLS} from social where id>$1 order by id limit $2") });
    let shared = state();
    HttpServer::new(move || App::new().app_data(if perw { state() } else { shared.clone() }).route("/posts/{id}", web::get().to(get)).route("/posts", web::get().to(list)).route("/posts", web::post().to(create)).route("/analytics/summary", web::get().to(summary)))
        .tcp_nodelay(true).workers(a[2].parse().unwrap()).bind(("127.0.0.1", a[1].parse().unwrap()))?.run().await }
