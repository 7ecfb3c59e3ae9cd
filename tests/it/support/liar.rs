//! ClickHouse's HTTP interface with a server in front of it that lies: it does what it is asked and says that it has not,
//! or the other way round, or does it again later.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actix_web::http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use actix_web::web::{self, Data, Payload};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::proxy::Proxy;

/// How late what is done later is done.
const LATE: Duration = Duration::from_secs(3);

/// What was done to whom.
#[derive(Debug, Default)]
pub(crate) struct Said {
    /// One of so many requests is lied to, per thousand.
    per_mille: AtomicU32,
    /// Lies so far.
    lies: AtomicU64,
}

/// The liar, and the TCP proxy before it.
#[derive(Debug)]
pub(crate) struct Liar {
    said: Arc<Said>,
    pub(crate) proxy: Arc<Proxy>,
}

struct Server {
    target: String,
    said: Arc<Said>,
    random: std::sync::Mutex<ChaCha8Rng>,
    client: reqwest::Client,
    proxy: OnceLock<Arc<Proxy>>,
}

#[derive(Debug, Clone, Copy)]
enum Lie {
    /// Done; the connection ends without a word.
    DoneAndCut,
    /// Done; a proxy's page says that it failed.
    DoneAndFailed,
    /// Done; ClickHouse's own word for a lack of memory.
    DoneAndRefused,
    /// Not done; 200 with the header that says so.
    OkWithException,
    /// Not done, and the connection ends; an INSERT is done seconds later.
    LateAndCut,
    /// Done, and an INSERT is done once more seconds later.
    DoneTwice,
}

impl Liar {
    /// One before `target`, ClickHouse's URL.
    pub(crate) async fn before(target: &str, seed: u64) -> Self {
        let said = Arc::new(Said::default());
        let server = Data::new(Server {
            target: target.trim_end_matches('/').to_owned(),
            said: Arc::clone(&said),
            random: std::sync::Mutex::new(ChaCha8Rng::seed_from_u64(seed)),
            client: reqwest::Client::builder().no_proxy().build().expect("a client"),
            proxy: OnceLock::new(),
        });
        let served = server.clone();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address").to_string();
        std::thread::spawn(move || {
            actix_web::rt::System::new().block_on(async move {
                let app = move || App::new().app_data(served.clone()).default_service(web::to(answer));
                let server = HttpServer::new(app).workers(1).disable_signals().listen(listener).expect("listening");
                drop(server.run().await);
            });
        });
        let proxy = Arc::new(Proxy::before(address).await);
        drop(server.proxy.set(Arc::clone(&proxy)));
        Self { said, proxy }
    }

    /// The URL to give to who is lied to.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.proxy.address())
    }

    /// Lies to so many of a thousand requests.
    pub(crate) fn lie(&self, per_mille: u32) {
        self.said.per_mille.store(per_mille, Ordering::SeqCst);
    }

    /// Lies so far.
    pub(crate) fn lies(&self) -> u64 {
        self.said.lies.load(Ordering::SeqCst)
    }
}

impl Server {
    fn draw(&self) -> Option<Lie> {
        let mut random = self.random.lock().expect("nobody panics with it");
        if random.random_range(0..1000) >= self.said.per_mille.load(Ordering::SeqCst) {
            return None;
        }
        self.said.lies.fetch_add(1, Ordering::SeqCst);
        let lies = [
            Lie::DoneAndCut,
            Lie::DoneAndFailed,
            Lie::DoneAndRefused,
            Lie::OkWithException,
            Lie::LateAndCut,
            Lie::DoneTwice,
        ];
        Some(lies[random.random_range(0..lies.len())])
    }

    fn cut(&self) {
        if let Some(proxy) = self.proxy.get() {
            proxy.cut();
        }
    }
}

/// One request, whole, so that it can be sent again.
#[derive(Clone)]
struct Asked {
    method: reqwest::Method,
    url: String,
    headers: Vec<(String, Vec<u8>)>,
    body: Bytes,
}

impl Asked {
    async fn read(server: &Server, request: &HttpRequest, mut payload: Payload) -> Option<Self> {
        let mut body = BytesMut::new();
        while let Some(chunk) = payload.next().await {
            body.extend_from_slice(&chunk.ok()?);
        }
        let kept = request
            .headers()
            .iter()
            .filter(|(name, _)| ![CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING].contains(name));
        Some(Self {
            method: request.method().as_str().parse().ok()?,
            url: format!("{}{}", server.target, request.uri()),
            headers: kept.map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect(),
            body: body.freeze(),
        })
    }

    async fn send(self, client: &reqwest::Client) -> Option<(u16, Vec<(String, Vec<u8>)>, Bytes)> {
        let mut request = client.request(self.method, self.url).body(self.body);
        for (name, value) in self.headers {
            request = request.header(name, value);
        }
        let answer = request.send().await.ok()?;
        let headers = answer.headers().iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()));
        let headers = headers.collect();
        Some((answer.status().as_u16(), headers, answer.bytes().await.ok()?))
    }

    /// Only an INSERT can be late: what else came late, a network would have to hold back longer than its sender waits.
    fn is_insert(&self) -> bool {
        let is = |text: &[u8]| text.to_ascii_lowercase().windows(12).any(|window| window.starts_with(b"insert"));
        is(self.url.as_bytes()) || is(self.body.get(..64.min(self.body.len())).unwrap_or_default())
    }
}

async fn answer(server: Data<Server>, request: HttpRequest, payload: Payload) -> HttpResponse {
    let nothing = || {
        server.cut();
        HttpResponse::BadGateway().finish()
    };
    let Some(asked) = Asked::read(&server, &request, payload).await else { return nothing() };
    let lie = server.draw();
    let later = asked.clone();
    let late = async || {
        if later.is_insert() {
            let (client, later) = (server.client.clone(), later.clone());
            actix_web::rt::spawn(async move {
                tokio::time::sleep(LATE).await;
                later.send(&client).await
            });
        }
    };
    match lie {
        Some(Lie::OkWithException) => {
            return HttpResponse::Ok()
                .insert_header(("X-ClickHouse-Exception-Code", "241"))
                .body("Code: 241. DB::Exception: Memory limit exceeded (a lie). (MEMORY_LIMIT_EXCEEDED)\n");
        }
        Some(Lie::LateAndCut) => {
            late().await;
            return nothing();
        }
        _ => {}
    }
    let Some((status, headers, body)) = asked.send(&server.client).await else { return nothing() };
    match lie {
        Some(Lie::DoneAndCut) => nothing(),
        Some(Lie::DoneAndFailed) => HttpResponse::ServiceUnavailable().body("<html>no server is available</html>"),
        Some(Lie::DoneAndRefused) => HttpResponse::InternalServerError()
            .insert_header(("X-ClickHouse-Exception-Code", "241"))
            .body("Code: 241. DB::Exception: Memory limit exceeded (a lie). (MEMORY_LIMIT_EXCEEDED)\n"),
        Some(Lie::DoneTwice) => {
            late().await;
            passed_on(status, headers, body)
        }
        _ => passed_on(status, headers, body),
    }
}

fn passed_on(status: u16, headers: Vec<(String, Vec<u8>)>, body: Bytes) -> HttpResponse {
    let status = actix_web::http::StatusCode::from_u16(status).expect("a status");
    let mut response = HttpResponse::build(status);
    let hop = ["connection", "content-length", "transfer-encoding", "keep-alive"];
    for (name, value) in headers.into_iter().filter(|(name, _)| !hop.contains(&name.as_str())) {
        response.append_header((name, value));
    }
    response.body(body)
}
