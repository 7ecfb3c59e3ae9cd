//! Kafka: one broker that is its own controller, formatted at the first start, on loopback only.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use super::super::jvm::{COMMAND_HEAP, Jvm, SERVICE_HEAP, properties};
use super::super::ports::Ports;
use super::super::process::Launch;
use super::super::runner::Runner;
use super::super::service::Service;
use crate::config;
use crate::store::kafka;

/// The name under which the controller's port is kept.
pub(in super::super) const CONTROLLER: &str = "kafka-controller";
/// The largest message, in bytes: of the broker, of Connect's producer and of the topic.
pub(in super::super) const MESSAGE_BYTES_MAX: &str = "67108864";

/// The broker.
#[derive(Debug)]
pub(in super::super) struct Kafka {
    /// Its folder.
    pub(in super::super) folder: PathBuf,
    /// Its jars, and Java.
    pub(in super::super) jvm: Jvm,
    /// All ports; its own are `kafka` and `CONTROLLER`.
    pub(in super::super) ports: Arc<Ports>,
    /// How it is reached, for asking whether it is ready.
    pub(in super::super) client: config::Kafka,
}

impl Kafka {
    /// The file in which the controller's port is remembered.
    pub(in super::super) fn controller_port_file(folder: &std::path::Path) -> PathBuf {
        folder.join("controller-port")
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.ports.of("kafka"))
    }

    /// Ports may differ from the last start, so that the file is written every time.
    fn write_properties(&self) -> anyhow::Result<PathBuf> {
        let controller_port = self.ports.of(CONTROLLER);
        let controller = format!("127.0.0.1:{controller_port}");
        std::fs::write(Self::controller_port_file(&self.folder), format!("{controller_port}\n"))
            .context("writing the controller's port")?;
        let listeners = format!("PLAINTEXT://{},CONTROLLER://{controller}", self.address());
        let advertised = format!("PLAINTEXT://{}", self.address());
        let voters = format!("1@{controller}");
        let text = properties(&[
            ("process.roles", "broker,controller"),
            ("node.id", "1"),
            ("controller.quorum.voters", &voters),
            ("listeners", &listeners),
            ("advertised.listeners", &advertised),
            ("inter.broker.listener.name", "PLAINTEXT"),
            ("controller.listener.names", "CONTROLLER"),
            ("listener.security.protocol.map", "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT"),
            // Relative to the folder that the broker is started in.
            ("log.dirs", "data"),
            ("auto.create.topics.enable", "false"),
            ("message.max.bytes", MESSAGE_BYTES_MAX),
            ("replica.fetch.max.bytes", MESSAGE_BYTES_MAX),
            ("log.retention.hours", "168"),
            // One broker: nothing can be kept twice.
            ("default.replication.factor", "1"),
            ("min.insync.replicas", "1"),
            ("offsets.topic.replication.factor", "1"),
            ("offsets.topic.num.partitions", "1"),
            ("transaction.state.log.replication.factor", "1"),
            ("transaction.state.log.min.isr", "1"),
            ("transaction.state.log.num.partitions", "1"),
            ("share.coordinator.state.topic.replication.factor", "1"),
            ("share.coordinator.state.topic.min.isr", "1"),
            ("share.coordinator.state.topic.num.partitions", "1"),
            ("group.initial.rebalance.delay.ms", "0"),
        ]);
        let path = self.folder.join("server.properties");
        std::fs::write(&path, text).context("writing the broker's properties")?;
        Ok(path)
    }
}

#[async_trait::async_trait]
impl Service for Kafka {
    async fn prepare(&self, runner: &Runner) -> anyhow::Result<()> {
        let data = self.folder.join("data");
        // Written last by the formatting: without it whatever lies there is of an interrupted one.
        if data.join("meta.properties").exists() {
            return Ok(());
        }
        if data.exists() {
            std::fs::remove_dir_all(&data).context("removing Kafka's unfinished folder")?;
        }
        let path = self.write_properties()?;
        let launch = self
            .jvm
            .program("kafka.tools.StorageTool", &COMMAND_HEAP)
            .args(["format", "-t", &cluster_id(), "-c"])
            .path(&path)
            .folder(&self.folder);
        runner.run("kafka-format", &launch).await
    }

    fn launch(&self) -> anyhow::Result<Launch> {
        let path = self.write_properties()?;
        self.ports.release(&["kafka", CONTROLLER]);
        Ok(self.jvm.program("kafka.Kafka", &SERVICE_HEAP).path(&path).folder(&self.folder))
    }

    async fn ready(&self) -> anyhow::Result<()> {
        // Refused at once, instead of the client's own patience.
        tokio::net::TcpStream::connect(self.address()).await.context("connecting")?;
        kafka::ping(&self.client).await
    }
}

/// A random identity as Kafka writes it. It must not begin with a dash, which would be read as a flag.
fn cluster_id() -> String {
    loop {
        let id = BASE64_URL_SAFE_NO_PAD.encode(uuid::Uuid::new_v4().as_bytes());
        if !id.starts_with('-') {
            return id;
        }
    }
}
