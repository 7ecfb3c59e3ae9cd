//! Watches the connector: Kafka Connect never restarts a failed task, and one that is gone stays gone.

use std::time::Duration;

use metrics::{counter, gauge};
use tokio::time::Instant;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use super::status::Status;
use crate::config::Settings;
use crate::store::connect::Connect;
use crate::store::replication::{self, Slot};
use crate::store::{connector, postgres};

/// First wait between two restarts.
const RESTART_WAIT_MIN: Duration = Duration::from_secs(1);
/// Longest wait between two restarts of a task that keeps failing.
const RESTART_WAIT_MAX: Duration = Duration::from_secs(60);
/// How long Connect may take to accept a connector.
const APPLY_LIMIT: Duration = Duration::from_secs(10);

/// Restarts failed tasks, makes a connector that is gone again, and raises the heartbeat while the connector, being down, does not. Ends with `cancelled`.
pub async fn supervise(settings: Settings, status: Status, cancelled: CancellationToken) {
    let connect = Connect::new(&settings.connect).ok();
    if connect.is_none() {
        tracing::warn!("connect.url is not set: a failed connector is neither seen nor restarted");
    }
    let interval = Duration::from_millis(settings.sink.supervise_interval_ms.max(100));
    let mut watch = Watch {
        pipeline: settings.sink.pipeline.clone(),
        status,
        failing: false,
        wait: RESTART_WAIT_MIN,
        not_before: Instant::now(),
    };
    let mut heart: Option<Client> = None;
    loop {
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = cancelled.cancelled() => return,
        }
        heart = beat(heart, &settings).await;
        if let Some(connect) = &connect {
            watch.look(connect, heart.as_ref(), &settings).await;
        }
    }
}

struct Watch {
    pipeline: String,
    status: Status,
    failing: bool,
    wait: Duration,
    not_before: Instant,
}

impl Watch {
    async fn look(&mut self, connect: &Connect, postgres: Option<&Client>, settings: &Settings) {
        let status = match connect.status(&self.pipeline).await {
            Ok(Some(status)) => status,
            Ok(None) => {
                self.say("the connector does not exist");
                return self.make_again(connect, postgres, settings).await;
            }
            Err(error) => return self.say(&error.to_string()),
        };
        gauge!("platform_connector_running").set(if status.is_running() { 1.0 } else { 0.0 });
        let Some(failure) = status.failure() else {
            if status.is_running() {
                self.status.connector(None);
            }
            if status.is_running() && std::mem::take(&mut self.failing) {
                tracing::info!("the connector runs");
                self.wait = RESTART_WAIT_MIN;
            }
            return;
        };
        self.status.connector(Some(format!("its task has failed and is restarted: {failure}")));
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

    /// Makes a connector that is gone again: its offsets outlive it, so that it goes on where it stood. Not one that was
    /// deleted by `platform connector delete`, and not without its slot: Debezium would make another one, behind a hole.
    async fn make_again(&mut self, connect: &Connect, postgres: Option<&Client>, settings: &Settings) {
        let Some(client) = postgres.filter(|_| Instant::now() >= self.not_before) else { return };
        let wanted = connector::is_wanted(client, &self.pipeline).await.unwrap_or(false);
        let slot = replication::source_state(client, &self.pipeline).await.map(|state| state.slot);
        if !wanted || !matches!(slot, Ok(Slot::Kept { .. })) {
            return;
        }
        counter!("platform_connector_restarts_total").increment(1);
        match connector::apply(settings, client, connect, APPLY_LIMIT).await {
            Ok(()) => tracing::warn!("the connector was gone, and is made again"),
            Err(error) => tracing::warn!(
                error = format!("{error:#}"),
                next_try_s = self.wait.as_secs(),
                "the connector is gone and cannot be made again; run `platform connector apply`"
            ),
        }
        self.not_before = Instant::now() + self.wait;
        self.wait = (self.wait * 2).min(RESTART_WAIT_MAX);
    }

    /// Says a problem once, until it has passed.
    fn say(&mut self, problem: &str) {
        gauge!("platform_connector_running").set(0.0);
        self.status.connector(Some(problem.to_owned()));
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
    // Not while the connector does, each second: every beat costs the sink a batch. A beat of the future is of a clock that was set back since.
    let sql = "update platform.heartbeat set counter = counter + 1, beat_at = now() \
               where id = 1 and beat_at not between now() - interval '1.5 s' and now()";
    client.execute(sql, &[]).await.ok().map(|_| client)
}
