//! `platform clickhouse`: ClickHouse's own engine (libchdb) behind its HTTP protocol, for machines without a server.
//!
//! One request goes `server → request → (thread) exchange → statement → engine → response`. The HTTP side is
//! asynchronous; the engine blocks, so each statement has a thread, a connection of its own while it runs, and two
//! bounded channels for its body and its answer.

mod access;
mod analysis;
mod body;
mod cancel;
mod compression;
mod engine;
mod engine_ffi;
mod exception;
mod exchange;
mod form;
mod format;
mod lexer;
mod profile;
mod request;
mod response;
mod server;
mod settings;
mod statement;

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

pub use access::User;
use access::Users;
use engine::Engine;
use server::Front;
pub use server::Limits;
pub use settings::EngineSettings;

use crate::shutdown::Shutdown;

/// What to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// libchdb.so.
    pub engine: PathBuf,
    /// Where the data live.
    pub data_dir: PathBuf,
    /// Address to listen on; port 0 takes a free one.
    pub bind: SocketAddr,
    /// May do everything that the engine grants.
    pub administrator: User,
    /// May only read.
    pub reader: User,
    /// Memory of the engine, in MiB.
    pub memory_mb_max: u64,
    /// Limits of the front.
    pub limits: Limits,
}

/// The engine is open and the port is bound; requests wait in the port's queue until `serve`.
#[derive(Debug)]
pub struct ClickHouseFront {
    engine: Arc<Engine>,
    listener: TcpListener,
    users: Users,
    options: Options,
}

impl ClickHouseFront {
    /// Binds the port, then opens the engine.
    ///
    /// # Errors
    /// `Failure`s that name the port, folder, file or processor, and the remedy.
    pub async fn open(options: Options) -> anyhow::Result<Self> {
        let open = !options.bind.ip().is_loopback();
        let users = Users::new(options.administrator.clone(), options.reader.clone(), open)?;
        let listener = server::bind(options.bind)?;
        let settings = EngineSettings {
            memory_mb_max: options.memory_mb_max,
            concurrency_max: options.limits.concurrency_max,
            execution_time_max: options.limits.execution_time_max,
        };
        let (library, folder) = (options.engine.clone(), options.data_dir.clone());
        let engine = tokio::task::spawn_blocking(move || Engine::open(&library, &folder, &settings))
            .await
            .context("opening the engine")??;
        Ok(Self { engine, listener, users, options })
    }

    /// The address it listens on.
    ///
    /// # Errors
    /// The operating system does not say.
    pub fn address(&self) -> anyhow::Result<SocketAddr> {
        self.listener.local_addr().context("asking for the address")
    }

    /// ClickHouse's version.
    pub fn engine_version(&self) -> &str {
        self.engine.version()
    }

    /// Serves until the signal, lets requests end, closes the engine.
    ///
    /// # Errors
    /// The server cannot start.
    pub async fn serve(self, shutdown: &Shutdown) -> anyhow::Result<()> {
        let Self { engine, listener, users, options } = self;
        let buffer_folder = options.data_dir.join("answers");
        std::fs::create_dir_all(&buffer_folder).with_context(|| format!("making {}", buffer_folder.display()))?;
        let front = Front {
            engine: Arc::clone(&engine),
            users,
            places: Arc::new(Semaphore::new(options.limits.concurrency_max)),
            limits: options.limits,
            buffer_folder,
            runtime: Handle::current(),
        };
        let served = server::serve(front, listener, shutdown).await;
        tokio::task::spawn_blocking(move || engine.close()).await.context("closing the engine")?;
        served
    }
}
