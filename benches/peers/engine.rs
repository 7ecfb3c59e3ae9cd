//! The engine of the stack, and what the peers need of it.

use std::path::Path;
use std::time::Duration;

use platform::store::clickhouse::ClickHouse;

use crate::support::Stack;
use crate::support::wait::wait_until;

/// Merges of a measured table end within this.
const SETTLED: Duration = Duration::from_secs(300);

/// Lets the engine read from Kafka and PostgreSQL by itself, with the Kafka settings of the peer. Before its start.
pub(crate) fn allow_peers(data_dir: &Path) {
    for (folder, name, text) in
        [("config.d", "kafka.xml", include_str!("kafka.xml")), ("users.d", "grants.xml", include_str!("grants.xml"))]
    {
        let folder = data_dir.join("clickhouse").join(folder);
        std::fs::create_dir_all(&folder).expect("made");
        std::fs::write(folder.join(name), text).expect("written");
    }
}

/// An administrator's client.
pub(crate) fn client(stack: &Stack) -> ClickHouse {
    ClickHouse::new(&stack.settings().clickhouse).expect("configured").with_timeout(Duration::from_secs(600))
}

pub(crate) async fn run(clickhouse: &ClickHouse, sql: &str) {
    clickhouse.execute(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// The answer as tab-separated text, without the last newline.
pub(crate) async fn ask(clickhouse: &ClickHouse, sql: &str) -> String {
    let bytes = clickhouse.fetch_bytes(sql, &[], "TabSeparated").await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    String::from_utf8(bytes.to_vec()).expect("UTF-8").trim_end().to_owned()
}

/// Waits until nothing is merged any more.
pub(crate) async fn settle(clickhouse: &ClickHouse) {
    wait_until("merges have ended", SETTLED, || async {
        ask(clickhouse, "select count() from system.merges").await == "0"
    })
    .await;
}
