//! Several buckets at once for `platform etl`: each worker has its own session, and takes the next bucket when it has built one.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use futures_util::future::{join_all, try_join_all};
use indicatif::{ProgressBar, ProgressStyle};

use super::etl::{Bucket, Work};
use crate::batch::aggregates::Report;

/// What the workers share.
struct Queue<'a> {
    /// With their places in the list of reports.
    todo: Mutex<VecDeque<(usize, Bucket<'a>)>>,
    bar: ProgressBar,
    /// What another run has built meanwhile is no failure.
    others_may: bool,
}

/// Builds every bucket of `todo`, `parallel` at once, and reports in their order. `others_may`: a bucket that another run is at
/// work on, and that is fresh then, is left out.
///
/// # Errors
/// The first of `Work::build`'s. What the other workers have begun they end, and nothing more is begun.
pub(super) async fn build_all<'a>(
    work: &Work<'a>,
    todo: Vec<Bucket<'a>>,
    parallel: u8,
    others_may: bool,
) -> anyhow::Result<Vec<Report>> {
    let workers = usize::from(parallel).min(todo.len());
    let queue = Queue { bar: bar(todo.len()), todo: Mutex::new(todo.into_iter().enumerate().collect()), others_may };
    let more = try_join_all((1..workers).map(|_| work.another())).await?;
    let ended = join_all(std::iter::once(work).chain(&more).map(|work| queue.serve(work))).await;
    queue.bar.finish_and_clear();
    let mut reports = Vec::new();
    for built in ended {
        reports.extend(built?);
    }
    reports.sort_by_key(|(place, _)| *place);
    Ok(reports.into_iter().map(|(_, report)| report).collect())
}

impl<'a> Queue<'a> {
    async fn serve(&self, work: &Work<'a>) -> anyhow::Result<Vec<(usize, Report)>> {
        let mut reports = Vec::new();
        while let Some((place, bucket)) = self.next() {
            match work.build(bucket).await {
                Ok(report) => reports.push((place, report)),
                Err(error) if self.others_may && work.is_done_by_another(bucket, &error).await? => {}
                Err(error) => {
                    self.stop();
                    return Err(error);
                }
            }
            self.bar.inc(1);
        }
        Ok(reports)
    }

    fn next(&self) -> Option<(usize, Bucket<'a>)> {
        self.todo.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    fn stop(&self) {
        self.todo.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// On a terminal only.
fn bar(buckets: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("building {bar:30} {pos}/{len} {eta}");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(u64::try_from(buckets).unwrap_or(u64::MAX)).with_style(style)
}
