//! Watches the connector: Kafka Connect never restarts a failed task, and RUNNING is not health.

use std::time::Duration;

use metrics::{counter, gauge};
use tokio::time::Instant;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::config::Settings;
use crate::store::connect::Connect;
use crate::store::postgres;

/// Longest wait between two restarts of a task that keeps failing.
const RESTART_WAIT_MAX: Duration = Duration::from_secs(60);

/// Restarts failed tasks, and raises the heartbeat so that it rises while the connector is down. Ends with `cancelled`.
pub async fn supervise(settings: Settings, cancelled: CancellationToken) {
    let connect = Connect::new(&settings.connect).ok();
    if connect.is_none() {
        tracing::warn!("connect.url is not set: a failed connector is neither seen nor restarted");
    }
    let interval = Duration::from_millis(settings.sink.supervise_interval_ms.max(100));
    let mut watch =
        Watch { pipeline: settings.sink.pipeline.clone(), failing: false, wait: interval, not_before: Instant::now() };
    let mut heart: Option<Client> = None;
    loop {
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = cancelled.cancelled() => return,
        }
        if let Some(connect) = &connect {
            watch.look(connect).await;
        }
        heart = beat(heart, &settings).await;
    }
}

struct Watch {
    pipeline: String,
    failing: bool,
    wait: Duration,
    not_before: Instant,
}

impl Watch {
    async fn look(&mut self, connect: &Connect) {
        let status = match connect.status(&self.pipeline).await {
            Ok(Some(status)) => status,
            Ok(None) => return self.say("the connector does not exist; run `platform connector apply`"),
            Err(error) => return self.say(&error.to_string()),
        };
        gauge!("platform_connector_running").set(if status.is_running() { 1.0 } else { 0.0 });
        let Some(failure) = status.failure() else {
            if status.is_running() && std::mem::take(&mut self.failing) {
                tracing::info!("the connector runs");
                self.wait = Duration::from_secs(1);
            }
            return;
        };
        if Instant::now() < self.not_before {
            return;
        }
        self.failing = true;
        counter!("platform_connector_restarts_total").increment(1);
        tracing::warn!(failure, next_try_s = self.wait.as_secs(), "the connector's task has failed and is restarted");
        if let Err(error) = connect.restart(&self.pipeline, true).await {
            tracing::warn!(error = %error, "the restart was refused");
        }
        self.not_before = Instant::now() + self.wait;
        self.wait = (self.wait * 2).min(RESTART_WAIT_MAX);
    }

    /// Says a problem once, until it has passed.
    fn say(&mut self, problem: &str) {
        gauge!("platform_connector_running").set(0.0);
        if !std::mem::replace(&mut self.failing, true) {
            tracing::warn!(problem, "the connector cannot be watched");
        }
    }
}

async fn beat(client: Option<Client>, settings: &Settings) -> Option<Client> {
    let client = match client {
        Some(client) if !client.is_closed() => client,
        // The lease reports an unreachable PostgreSQL; here it would be said twice.
        _ => postgres::connect(&settings.postgres, "platform sink supervisor").await.ok()?,
    };
    let sql = "update platform.heartbeat set counter = counter + 1, beat_at = now() where id = 1";
    client.execute(sql, &[]).await.ok().map(|_| client)
}
