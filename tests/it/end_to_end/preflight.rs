//! A connector whose settings would damage values is refused before anything is read, by name.

use std::time::Duration;

use nix::sys::signal::Signal;
use platform::domain::TableName;

use super::equality::Tables;
use super::workload::Workload;
use super::{CATCH_UP, Hands};
use crate::support::Stack;
use crate::support::wait::wait_until;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_that_would_damage_values_halt_the_sink_and_apply_mends_them() {
    let stack = Stack::start();
    let hands = Hands::of(&stack).await;
    let http = reqwest::Client::new();
    let url = format!("{}/connectors/platform/config", stack.connect_url());
    let right: serde_json::Value = http.get(&url).send().await.expect("answered").json().await.expect("JSON");
    for (key, value, said) in [
        ("decimal.handling.mode", "double", "numerics lose digits"),
        ("value.converter.schemas.enable", "true", "messages carry their schema"),
        ("transforms.route.replacement", "platform.$0", "one topic a table"),
    ] {
        let mut wrong = right.clone();
        wrong[key] = value.into();
        // The sink that runs now must not see messages of this connector: it is stopped first.
        stack.kill_part("sink", Signal::SIGSTOP);
        let put = http.put(&url).json(&wrong).send().await.expect("answered");
        assert!(put.status().is_success(), "{key}: {}", put.status());
        stack.kill_part("sink", Signal::SIGKILL);
        let readyz = || async {
            let answer =
                http.get(format!("http://{}/readyz", stack.variable("PLATFORM__SINK__BIND"))).send().await.ok()?;
            Some((answer.status().as_u16(), answer.text().await.ok()?))
        };
        wait_until(&format!("the sink refuses {key}"), CATCH_UP, || async {
            readyz()
                .await
                .is_some_and(|(status, text)| status == 503 && text.contains("\"connector\"") && text.contains(said))
        })
        .await;
        let applied = stack.platform(&["connector", "apply"]);
        assert_eq!(applied.code, Some(0), "{}", applied.stderr);
        // Messages of the wrong form are in the topic, or heartbeats are missing from it: a load goes past them, once the sink
        // has met them and halted. One that has not yet is ready, and left alone by the load: only what passes is proof.
        wait_until("the sink goes on after a load", CATCH_UP, || async {
            let loaded = tokio::task::block_in_place(|| stack.platform(&["load"]));
            assert_eq!(loaded.code, Some(0), "{}", loaded.stderr);
            tokio::time::timeout(Duration::from_secs(15), hands.caught_up()).await.is_ok()
        })
        .await;
    }
    let mut workload = Workload::new(8);
    workload.posts(&hands.postgres, 20).await;
    hands.caught_up().await;
    let posts = [TableName::new("public", "sentiment_social")];
    Tables::become_equal(&hands, &posts, "with the right settings again").await;
}
