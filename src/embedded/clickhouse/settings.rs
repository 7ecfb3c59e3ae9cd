//! Limits and rights that the engine itself enforces, written as its configuration files.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;

/// Limits of the engine.
#[derive(Debug, Clone)]
pub struct EngineSettings {
    /// Memory of all statements and caches together, in MiB.
    pub memory_mb_max: u64,
    /// Statements at once.
    pub concurrency_max: usize,
    /// Longest that a statement may run; a request cannot raise it.
    pub execution_time_max: Duration,
}

/// What the one user of the engine may do: everything inside the databases, nothing outside them. Table functions and
/// table engines that read files, other servers or programs need grants that are not here (error 497), and so do
/// users, roles, backups and stopping the engine.
const GRANTS: &str = "SHOW, SELECT, CHECK, INSERT, ALTER, CREATE, CREATE FUNCTION, DROP, DROP FUNCTION, UNDROP TABLE, TRUNCATE, \
     OPTIMIZE, KILL QUERY, dictGet, INTROSPECTION, SYSTEM MERGES, SYSTEM TTL MERGES, SYSTEM FLUSH ASYNC INSERT QUEUE, \
     SYSTEM DROP CACHE, SYSTEM VIEWS, SYSTEM RELOAD DICTIONARY, SYSTEM WAIT LOADING PARTS";

/// Writes the files into `folder` and returns the path of the first.
///
/// # Errors
/// The folder cannot be written.
pub(super) fn write(folder: &Path, settings: &EngineSettings) -> anyhow::Result<PathBuf> {
    let users = folder.join("users.xml");
    let config = folder.join("config.xml");
    let write =
        |path: &Path, text: String| std::fs::write(path, text).with_context(|| format!("writing {}", path.display()));
    write(&users, users_xml(settings))?;
    write(&config, config_xml(&users, settings))?;
    Ok(config)
}

fn config_xml(users: &Path, settings: &EngineSettings) -> String {
    let memory = settings.memory_mb_max.saturating_mul(1 << 20);
    // The engine's default of 5 GiB for marks alone would not fit into a small machine.
    let marks = (memory / 16).clamp(32 << 20, 512 << 20);
    format!(
        "<!-- Written by `platform clickhouse` at every start. -->
<clickhouse>
    <users_config>{users}</users_config>
    <timezone>UTC</timezone>
    <max_server_memory_usage>{memory}</max_server_memory_usage>
    <mark_cache_size>{marks}</mark_cache_size>
    <index_mark_cache_size>{index_marks}</index_mark_cache_size>
    <uncompressed_cache_size>0</uncompressed_cache_size>
    <index_uncompressed_cache_size>0</index_uncompressed_cache_size>
    <background_pool_size>2</background_pool_size>
    <background_merges_mutations_concurrency_ratio>2</background_merges_mutations_concurrency_ratio>
    <background_schedule_pool_size>8</background_schedule_pool_size>
    <background_common_pool_size>2</background_common_pool_size>
    <background_fetches_pool_size>1</background_fetches_pool_size>
    <background_move_pool_size>1</background_move_pool_size>
    <background_buffer_flush_schedule_pool_size>1</background_buffer_flush_schedule_pool_size>
    <background_distributed_schedule_pool_size>1</background_distributed_schedule_pool_size>
    <background_message_broker_schedule_pool_size>1</background_message_broker_schedule_pool_size>
</clickhouse>
",
        users = escaped(&users.display().to_string()),
        index_marks = marks / 4,
    )
}

fn users_xml(settings: &EngineSettings) -> String {
    let seconds = settings.execution_time_max.as_secs().max(1);
    let memory = settings.memory_mb_max.saturating_mul(1 << 20);
    // Blocks of an insert are cut by their bytes too, not by a million rows alone, which of a kilobyte each would take
    // the whole memory. One insert below the second size still becomes one part.
    let (parsed, squashed) = (memory / 32, memory / 16);
    // The engine gives a statement as many threads as its free memory holds gibibytes: with 2 GiB in all that is one thread,
    // however many cores there are. A thread of a scan takes tens of megabytes.
    let of_a_thread = (memory / 16).min(1 << 30);
    format!(
        "<!-- Written by `platform clickhouse` at every start. Users and passwords are the front's. -->
<clickhouse>
    <profiles>
        <default>
            <implicit_select>0</implicit_select>
            <session_timezone>UTC</session_timezone>
            <max_execution_time>{seconds}</max_execution_time>
            <max_insert_block_size_bytes>{parsed}</max_insert_block_size_bytes>
            <min_insert_block_size_bytes>{squashed}</min_insert_block_size_bytes>
            <max_threads_min_free_memory_per_thread>{of_a_thread}</max_threads_min_free_memory_per_thread>
            <constraints>
                <max_execution_time><min>0.001</min><max>{seconds}</max></max_execution_time>
                <implicit_select><const/></implicit_select>
            </constraints>
        </default>
    </profiles>
    <users>
        <default>
            <password></password>
            <networks><ip>::/0</ip></networks>
            <profile>default</profile>
            <quota>default</quota>
            <grants><query>GRANT {GRANTS} ON *.*</query></grants>
        </default>
    </users>
    <quotas><default/></quotas>
</clickhouse>
"
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
