//! The servers: the platform's API, the bare actix server and FastAPI, each a process of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use platform::store::clickhouse::ClickHouse;

use crate::figures::cpu_seconds;
use crate::requests::Dialect;
use crate::support::wait::wait_until;
use crate::support::{Stack, processes};

/// Workers of every server: as many as cores.
const WORKERS: &str = "2";
/// Connections of the bare server to PostgreSQL, for each worker: as many as the platform has without a setting.
const BARE_POOL: &str = "4";
const READY: Duration = Duration::from_secs(60);

/// A running server; it ends with its value.
pub(crate) struct Server {
    pub(crate) name: &'static str,
    pub(crate) dialect: Dialect,
    pub(crate) address: SocketAddr,
    child: Child,
}

impl Server {
    /// As it is set by default, with a rate limit that is never reached.
    pub(crate) async fn ours(stack: &Stack) -> Self {
        let address = free_address();
        let log = std::fs::File::create(stack.data_dir().join("logs/bench-serve.log")).expect("a file");
        let mut command = stack.command(&["serve"]);
        command.env("PLATFORM__API__BIND", address.to_string());
        command.env("PLATFORM__API__RATE_LIMIT_REQUESTS", u32::MAX.to_string());
        let child = command.stdout(Stdio::null()).stderr(log).spawn().expect("started");
        Self { name: "platform", dialect: Dialect::Platform, address, child }.ready("/livez").await
    }

    async fn ready(self, path: &str) -> Self {
        let url = format!("http://{}{path}", self.address);
        let http = reqwest::Client::builder().no_proxy().build().expect("a client");
        wait_until(&format!("{} answers", self.name), READY, || async {
            http.get(&url).send().await.is_ok_and(|answer| answer.status().is_success())
        })
        .await;
        self
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a process number")
    }

    /// CPU seconds used so far, by its children too.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        family(self.pid()).into_iter().map(cpu_seconds).sum()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        processes::signal(self.pid(), nix::sys::signal::Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

/// A process and its children's children.
fn family(pid: i32) -> Vec<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children = text.split_ascii_whitespace().filter_map(|word| word.parse().ok());
    std::iter::once(pid).chain(children.flat_map(family)).collect()
}

/// The peers, installed.
pub(crate) struct Peers {
    bare: PathBuf,
    python: PathBuf,
}

impl Peers {
    /// Compiles the one and installs the other, below the target folder.
    pub(crate) fn install() -> Self {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target folder").join("bench-peers");
        let (bare, venv) = (target.join("bare"), target.join("fastapi"));
        println!("compiling the bare server, installing FastAPI, into {}", target.display());
        let mut cargo = Command::new("cargo");
        cargo.args(["build", "--release", "--locked", "--quiet", "--manifest-path"]);
        run(cargo.arg(folder().join("bare-actix/Cargo.toml")).arg("--target-dir").arg(&bare));
        if !venv.join("installed").exists() {
            run(Command::new("python3").args(["-m", "venv"]).arg(&venv));
            let mut pip = Command::new(venv.join("bin/python"));
            pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"]);
            run(pip.arg(folder().join("requirements.txt")));
            std::fs::write(venv.join("installed"), "").expect("written");
        }
        Self { bare: bare.join("release/apirs"), python: venv.join("bin/python") }
    }

    /// With a pool a worker, its faster form.
    pub(crate) async fn bare(&self, stack: &Stack) -> Server {
        let address = free_address();
        let mut command = Command::new(&self.bare);
        command.args([&address.port().to_string(), WORKERS, BARE_POOL]).env("PERW", "1");
        let (url, _, _) = stack.clickhouse();
        command.env("PEER_CLICKHOUSE", url);
        start("bare actix", command, address, stack).await
    }

    /// Uvicorn as it is recommended: uvloop, httptools, a worker a core, no access log.
    pub(crate) async fn fast_api(&self, stack: &Stack) -> Server {
        let clickhouse = ClickHouse::new(&stack.settings().clickhouse).expect("configured");
        clickhouse.execute("create database if not exists k", &[]).await.expect("a database");
        let address = free_address();
        let mut command = Command::new(&self.python);
        command.args([
            "-m",
            "uvicorn",
            "api_fast:app",
            "--loop",
            "uvloop",
            "--http",
            "httptools",
            "--no-access-log",
            "--log-level",
            "warning",
        ]);
        command.args(["--workers", WORKERS, "--port", &address.port().to_string(), "--app-dir"]).arg(folder());
        let (url, user, password) = stack.clickhouse();
        let host = url.trim_start_matches("http://");
        command.env("PEER_CLICKHOUSE", format!("http://{user}:{password}@{host}"));
        start("FastAPI", command, address, stack).await
    }
}

async fn start(name: &'static str, mut command: Command, address: SocketAddr, stack: &Stack) -> Server {
    // What a peer complains about is seen.
    command.env("PEER_POSTGRES", stack.postgres_url()).stdin(Stdio::null()).stdout(Stdio::null());
    let child = command.spawn().expect("started");
    Server { name, dialect: Dialect::Peer, address, child }.ready("/posts/1").await
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/api/peers")
}

fn run(command: &mut Command) {
    let status = command.status().expect("started");
    assert!(status.success(), "{command:?} failed");
}

pub(crate) fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port")
}
