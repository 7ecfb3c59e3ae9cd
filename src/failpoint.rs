//! Named places where a test ends the process as `kill -9` does, to prove that nothing is lost there.
//!
//! They exist only with the feature `failpoints`, which a release build refuses. A process whose environment has
//! `PLATFORM_FAILPOINT=NAME`, or `NAME:N`, ends when it passes that place for the first, or the N-th, time.

#[cfg(all(feature = "failpoints", not(debug_assertions)))]
compile_error!("failpoints end the process: they are for tests, never for a release build");

/// Every point with the step that it stands at. A test ends a process at each of them; `tests/tidy.rs` compares them with the
/// sources.
pub const POINTS: &[(&str, &str)] = &[
    ("sink.lease-taken", "the lease is taken, the checkpoint is not read yet"),
    ("sink.started", "everything is read, the first fetch comes next"),
    ("sink.fetched", "records have come from the topic"),
    ("sink.decoded", "a record is in the batch"),
    ("sink.before-mark-whole", "every bucket of a table that was emptied is marked next"),
    ("sink.before-floor", "a TRUNCATE's floor is raised next"),
    ("floor.stored", "a floor is raised, the parked rows below it are not set aside yet"),
    ("sink.after-floor", "a TRUNCATE's floor is raised"),
    ("sink.before-reread", "rows that lack values are read again next"),
    ("sink.after-reread", "rows that lack values were read again"),
    ("sink.before-park", "rows that cannot be applied are parked next"),
    ("sink.after-park", "rows that cannot be applied are parked"),
    ("sink.before-mark", "the buckets that a table's rows change are marked next"),
    ("sink.after-mark", "the buckets that a table's rows change are marked"),
    ("sink.before-insert", "a table's rows are inserted next"),
    ("insert.sent", "a block is on its way, its end is not"),
    ("sink.after-insert", "a table's rows are inserted, those of the batch's next table are not"),
    ("sink.before-checkpoint", "every row of the batch is inserted, the checkpoint is written next"),
    ("sink.after-checkpoint", "the checkpoint is written"),
    ("structure.all-written", "a table's structure is read again next"),
    ("structure.before-statement", "a statement that makes a mirror follow comes next"),
    ("structure.after-statement", "a statement that makes a mirror follow is done"),
    ("structure.before-view", "the columns follow, the view does not yet"),
    ("structure.before-comment", "the view follows, the comment that says so does not stand yet"),
    ("structure.after-comment", "a mirror follows its table"),
    ("structure.refreshed", "the decoder knows the tables' new structure"),
    ("watch.before-left", "a table that has left the publication is marked next"),
    ("watch.after-left", "a table that has left the publication is marked"),
    ("watch.before-load", "the sink loads a table by itself next"),
    ("watch.after-load", "the sink has loaded a table by itself"),
    ("build.staging-made", "the staging table of a bucket is made, it is still empty"),
    ("build.before-swap", "a bucket is built and the lock confirmed, it is put in its place next"),
    ("build.after-swap", "a bucket is in its place, its build is not recorded"),
    ("build.recorded", "a build is recorded, the staging table is still there"),
    ("publish.before-show", "the view of a result is made or switched next"),
    ("publish.shown", "readers see the result, those of older definitions are still there"),
    ("publish.others-dropped", "the results of older definitions are gone"),
    ("load.locked", "the load has its lock"),
    ("load.slot-made", "the replication slot is made, the connector's old offsets are still there"),
    ("load.offsets-forgotten", "the connector is stopped and has no offsets"),
    ("load.connector-goes-on", "the connector goes on in the new slot"),
    ("load.log-stored", "the log's number is remembered, nothing was copied"),
    ("load.loading-stored", "a table is marked as loading, its mirror is as it was"),
    ("load.before-drop", "a mirror is made anew next"),
    ("load.mirror-dropped", "the old mirror is gone, the new one is not made"),
    ("load.mirror-made", "a mirror is made, its view is not"),
    ("load.view-made", "a mirror and its view are made"),
    ("load.marker-written", "the marker is in the log"),
    ("load.snapshot-open", "the snapshot is open"),
    ("load.tables-locked", "the tables are locked, the copy begins"),
    ("load.copying", "a block was sent to the mirror"),
    ("load.before-settle", "the blocks of an INSERT are sent, its end is not"),
    ("load.after-settle", "an INSERT has ended"),
    ("load.copied", "every row is copied, the floor is raised next"),
    ("load.floor-raised", "a table's floor is raised, it is still marked as loading"),
    ("load.marked", "the statistics of a loaded table are marked, it is still marked as loading"),
    ("load.live-stored", "a table is marked as live"),
    ("load.before-start", "every table is live, where the log begins is stored next"),
    ("load.before-checkpoint", "where the log begins is stored, the checkpoint is moved next"),
    ("load.after-checkpoint", "the checkpoint is moved"),
];

/// Ends the process here when the environment says so.
macro_rules! failpoint {
    ($name:literal) => {
        #[cfg(feature = "failpoints")]
        $crate::failpoint::pass($name);
    };
}

/// What the environment asks for, and how often its place was passed.
#[cfg(feature = "failpoints")]
struct Armed {
    name: String,
    passages: std::sync::atomic::AtomicU64,
}

/// Passes the point `name`.
#[cfg(feature = "failpoints")]
pub fn pass(name: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static ARMED: OnceLock<Option<Armed>> = OnceLock::new();
    let armed = ARMED.get_or_init(|| {
        let wanted = crate::config::environment().remove("PLATFORM_FAILPOINT")?;
        let (name, passages) = wanted.split_once(':').unwrap_or((&wanted, "1"));
        Some(Armed { name: name.to_owned(), passages: AtomicU64::new(passages.parse().unwrap_or(1)) })
    });
    let Some(armed) = armed.as_ref().filter(|armed| armed.name == name) else { return };
    // Below one: another thread has passed it and is ending the process.
    if armed.passages.fetch_sub(1, Ordering::SeqCst) == 1 {
        let this = nix::unistd::Pid::this();
        let _ = nix::sys::signal::kill(this, nix::sys::signal::Signal::SIGKILL);
        std::process::abort();
    }
}
