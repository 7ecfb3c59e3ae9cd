//! Kafka Connect: one distributed worker with Debezium, on loopback only.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;

use super::super::jvm::{Jvm, SERVICE_HEAP, properties};
use super::super::ports::Ports;
use super::super::process::Launch;
use super::super::service::Service;
use super::http::Http;
use super::kafka::MESSAGE_BYTES_MAX;

/// The worker.
#[derive(Debug)]
pub(in super::super) struct Connect {
    /// Its folder.
    pub(in super::super) folder: PathBuf,
    /// Its jars, and Java.
    pub(in super::super) jvm: Jvm,
    /// The folder of plugins.
    pub(in super::super) plugins: PathBuf,
    /// All ports; its own is `connect`.
    pub(in super::super) ports: Arc<Ports>,
    /// For asking whether it is ready.
    pub(in super::super) http: Http,
}

impl Connect {
    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports.of("connect"))
    }

    fn write_properties(&self) -> anyhow::Result<PathBuf> {
        let brokers = format!("127.0.0.1:{}", self.ports.of("kafka"));
        let plugins = self.plugins.display().to_string();
        let (url, port) = (self.url(), self.ports.of("connect").to_string());
        let text = properties(&[
            ("bootstrap.servers", &brokers),
            ("group.id", "platform-connect"),
            ("config.storage.topic", "platform.connect.configs"),
            ("offset.storage.topic", "platform.connect.offsets"),
            ("status.storage.topic", "platform.connect.status"),
            ("config.storage.replication.factor", "1"),
            ("offset.storage.replication.factor", "1"),
            ("status.storage.replication.factor", "1"),
            ("offset.storage.partitions", "1"),
            ("status.storage.partitions", "1"),
            ("listeners", &url),
            ("rest.advertised.host.name", "127.0.0.1"),
            ("rest.advertised.port", &port),
            ("plugin.path", &plugins),
            ("plugin.discovery", "service_load"),
            ("key.converter", "org.apache.kafka.connect.json.JsonConverter"),
            ("value.converter", "org.apache.kafka.connect.json.JsonConverter"),
            ("key.converter.schemas.enable", "false"),
            ("value.converter.schemas.enable", "false"),
            ("connector.client.config.override.policy", "All"),
            ("topic.creation.enable", "true"),
            // After a crash everything since the last flush is sent again; the default is a minute.
            ("offset.flush.interval.ms", "1000"),
            // A single worker has nobody to wait for, and one that died is given up soon.
            ("session.timeout.ms", "6000"),
            ("heartbeat.interval.ms", "2000"),
            ("scheduled.rebalance.max.delay.ms", "0"),
            // A larger buffer runs the heap out of memory.
            ("producer.buffer.memory", "33554432"),
            ("producer.max.request.size", MESSAGE_BYTES_MAX),
        ]);
        let path = self.folder.join("worker.properties");
        std::fs::write(&path, text).context("writing the worker's properties")?;
        Ok(path)
    }
}

#[async_trait::async_trait]
impl Service for Connect {
    fn launch(&self) -> anyhow::Result<Launch> {
        let path = self.write_properties()?;
        self.ports.release(&["connect"]);
        let main_class = "org.apache.kafka.connect.cli.ConnectDistributed";
        Ok(self.jvm.program(main_class, &SERVICE_HEAP).path(&path).folder(&self.folder))
    }

    async fn ready(&self) -> anyhow::Result<()> {
        // 200 only once the worker has joined its group and read its topics (KIP-1017).
        self.http.expect_ok(&format!("{}/health", self.url())).await
    }
}
