//! Statistics by day: `analytics.NAME`, made by `sql/aggregates/NAME.sql`, changed only by rebuilding whole days.
//!
//! ```text
//! inspect ─► stage ─► one part ─► lock held? ─► REPLACE PARTITION ─► record
//! ```
//!
//! A day is read exactly (`store::mirror_day`), built beside the table (`result`), and swapped in at once (`build`). The lock
//! makes one builder a day (`lock`). `build_bucket` is all of that; `rebuild` adds what `platform etl` promises: the
//! mirror has caught up, and the day equals PostgreSQL (`source_of_record`).

mod build;
mod dirty;
mod glimpse;
mod lock;
mod outline;
mod plan;
mod publish;
mod readiness;
mod rebuild;
mod result;
mod sessions;
mod source_of_record;
mod verify;
mod watermark;

pub use build::{DayRead, Outcome, Request, build, build_bucket};
pub use dirty::{dirty, marks_are_there};
pub use glimpse::Glimpse;
pub use lock::BucketLock;
pub use outline::{Inspection, LARGE_DAY, inspect};
pub use plan::{Plan, plan_in_clickhouse, plan_in_postgres};
pub use publish::{Published, are_published, complete, publish};
pub(super) use readiness::refuse_unready;
pub use rebuild::{Day, Options, Report, Status, rebuild};
pub(super) use result::{has_result, sweep};
pub use sessions::sessions;
pub use verify::{Verdict, verify};
pub use watermark::Position;
pub(super) use watermark::{catch_up, position};

pub use crate::store::aggregates::all;
pub(super) use crate::store::aggregates::failed;
use crate::store::aggregates::failed_in;
use crate::store::mirror_day;
pub use crate::store::mirror_day::{Facts, MirrorDay};
pub(super) use crate::store::stale_buckets::StaleBucket as Stale;
