//! A TCP proxy on a free port that can be cut, stalled and slowed down.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

const CHUNK: usize = 16 * 1024;
/// About 100 KiB a second.
const SLOW_CHUNK: usize = 1024;
const SLOW_PAUSE: Duration = Duration::from_millis(10);

/// What the proxy does with bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Passes them on.
    Open,
    /// Ends every connection, old and new.
    Closed,
    /// Holds them back until the mode changes.
    Stalled,
    /// Passes them on slowly.
    Slow,
}

/// A proxy; it ends with the runtime.
#[derive(Debug)]
pub(crate) struct Proxy {
    port: u16,
    mode: watch::Sender<Mode>,
    cuts: watch::Sender<u64>,
}

impl Proxy {
    /// One before `target`, `host:port`.
    pub(crate) async fn before(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let (mode, modes) = watch::channel(Mode::Open);
        let (cuts, cut) = watch::channel(0);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(serve(client, target.clone(), modes.clone(), cut.clone()));
            }
        });
        Self { port, mode, cuts }
    }

    /// `127.0.0.1:PORT`
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// From now on.
    pub(crate) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// Ends every connection that is open now.
    pub(crate) fn cut(&self) {
        self.cuts.send_modify(|count| *count += 1);
    }
}

async fn serve(client: TcpStream, target: String, mut mode: watch::Receiver<Mode>, mut cut: watch::Receiver<u64>) {
    cut.mark_unchanged();
    let modes = mode.clone();
    let talk = async {
        let server = TcpStream::connect(target).await?;
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        // One direction that ends ends the connection: both sides speak to the end, or are cut.
        tokio::select! {
            ended = pump(from_client, to_server, modes.clone()) => ended,
            ended = pump(from_server, to_client, modes.clone()) => ended,
        }
    };
    tokio::select! {
        _ = talk => {}
        _ = mode.wait_for(|mode| *mode == Mode::Closed) => {}
        _ = cut.changed() => {}
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut mode: watch::Receiver<Mode>) -> std::io::Result<()> {
    let gone = |_| std::io::Error::other("the proxy has ended");
    let mut buffer = vec![0; CHUNK];
    loop {
        let room = if *mode.borrow() == Mode::Slow { SLOW_CHUNK } else { CHUNK };
        let length = from.read(&mut buffer[..room]).await?;
        if length == 0 {
            return to.shutdown().await;
        }
        let now = *mode.wait_for(|mode| *mode != Mode::Stalled).await.map_err(gone)?;
        if now == Mode::Slow {
            tokio::time::sleep(SLOW_PAUSE).await;
        }
        to.write_all(&buffer[..length]).await?;
    }
}
