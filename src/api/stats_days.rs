//! Which days of `/v1/stats/daily` come from their builds and which are computed from the mirror, and the statement that
//! makes one result of both.

use std::collections::BTreeSet;

use super::problem::{ApiError, ApiResult, Code};
use crate::catalog::{Aggregate, SOURCE};
use crate::domain::RunDate;
use crate::store::clickhouse::ClickHouse;
use crate::store::day_states::{self, DayStates};
use crate::store::mirror_day::{self, MirrorTable};
use crate::store::moments::Moments;

/// Days that one request may have computed: each costs a look at the table's bucket column, and its own rows.
const LIVE_DAYS_MAX: usize = 100;

/// How the days of a span are read.
#[derive(Debug)]
pub(super) struct Plan {
    /// Builds and marks.
    pub states: DayStates,
    /// Days that come from the mirror: changed since their build, or not built.
    pub live: BTreeSet<RunDate>,
    mirror: Option<MirrorTable>,
    /// Where to look for rows without it.
    moments: Option<Moments>,
}

impl Plan {
    /// All days as they were built.
    ///
    /// # Errors
    /// ClickHouse's.
    pub(super) async fn of_builds(
        clickhouse: &ClickHouse,
        aggregate: &Aggregate,
        from: &str,
        to: &str,
    ) -> ApiResult<Self> {
        let states = day_states::read(clickhouse, aggregate, from, to).await?;
        Ok(Self { states, live: BTreeSet::new(), mirror: None, moments: None })
    }

    /// Days whose build has everything as they were built, the others from the mirror.
    ///
    /// # Errors
    /// ClickHouse's; 422 when too many days would have to be computed.
    pub(super) async fn hybrid(
        clickhouse: &ClickHouse,
        aggregate: &Aggregate,
        from: &str,
        to: &str,
    ) -> ApiResult<Self> {
        let mut plan = Self::of_builds(clickhouse, aggregate, from, to).await?;
        plan.mirror = MirrorTable::find(clickhouse, aggregate).await?;
        if plan.mirror.is_none() {
            plan.moments = Moments::find(clickhouse, &aggregate.table).await?;
        }
        let mut days = plan.states.known();
        if days.len() < days_of(from, to) || days.iter().any(|day| !plan.states.is_clean(*day)) {
            let built = plan.states.builds.len();
            let limit = LIVE_DAYS_MAX + built + 1;
            let versions = plan.versions(aggregate);
            let with_rows = day_states::days_with_rows(clickhouse, aggregate, &versions, (from, to), limit).await?;
            days.extend(&with_rows);
            // A marked day without a build whose rows have all gone has nothing to show.
            days.retain(|day| with_rows.contains(day) || plan.states.builds.contains_key(day));
        }
        plan.live = days.into_iter().filter(|day| !plan.states.is_clean(*day)).collect();
        if plan.live.len() > LIVE_DAYS_MAX {
            let detail = format!(
                "more than {LIVE_DAYS_MAX} days of the span are not built, or have changed since; ask for fewer, build them with \
                 `platform etl`, or take freshness=precomputed"
            );
            return Err(ApiError::new(Code::ResultTooLarge, detail));
        }
        Ok(plan)
    }

    /// Something that has every version of every row, or else the current rows.
    fn versions(&self, aggregate: &Aggregate) -> String {
        let moments = || self.moments.as_ref().and_then(|moments| moments.with(&aggregate.bucket_column));
        let versions = self.mirror.as_ref().map(MirrorTable::versions).or_else(moments);
        versions.map_or_else(|| aggregate.table.quoted_clickhouse("analytics"), str::to_owned)
    }

    /// Something to select from in place of `analytics.NAME`, without `build_id`, and the values of its parameters.
    pub(super) fn source(&self, aggregate: &Aggregate, from: &str) -> (String, Vec<(String, String)>) {
        // What is on record has a table; what is not has no row in it.
        let built = !self.states.builds.is_empty();
        let table = format!("({})", aggregate.newest_rows());
        if built && self.live.is_empty() {
            return (table, Vec::new());
        }
        let mut parts = Vec::new();
        let mut parameters = Vec::new();
        if built {
            // A day that is computed is not also taken as it was built.
            let days: Vec<String> = (0..self.live.len()).map(|number| format!("{{bucket_{number}:Date32}}")).collect();
            parts.push(format!("select * except (build_id) from {table} where day not in ({})", days.join(", ")));
        }
        let mut days: Vec<RunDate> = self.live.iter().copied().collect();
        if days.is_empty() {
            // Nothing of the span was built, and there is nothing to compute: some day, without its rows, gives the columns.
            days.extend(from.parse::<RunDate>().ok());
        }
        for (number, day) in days.into_iter().enumerate() {
            let suffix = format!("_{number}");
            let rows = match &self.mirror {
                Some(mirror) => mirror.rows(&suffix),
                None => mirror_day::rows_of_view(aggregate, self.moments.as_ref(), &suffix),
            };
            let select = aggregate.select.replace("{bucket:", &format!("{{bucket{suffix}:")).replace(SOURCE, &rows);
            let nothing = if self.live.is_empty() { " where 0" } else { "" };
            parts.push(format!("select {{bucket{suffix}:Date32}} as day, q.* from (\n{select}\n) as q{nothing}"));
            parameters.extend(mirror_day::bucket_parameters(aggregate, day, &suffix));
            if let Some(mirror) = &self.mirror {
                parameters.push((format!("floor{suffix}"), mirror.floor().get().to_string()));
            }
        }
        (format!("(\n{}\n)", parts.join("\nunion all\n")), parameters)
    }
}

/// How many days lie between two dates as ClickHouse writes them.
fn days_of(from: &str, to: &str) -> usize {
    let day = |text: &str| text.parse::<chrono::NaiveDate>().ok();
    match (day(from), day(to)) {
        (Some(from), Some(to)) => usize::try_from((to - from).num_days()).unwrap_or(0),
        _ => usize::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_days_of_a_span_are_counted() {
        assert_eq!(days_of("2014-01-01", "2014-01-01"), 0);
        assert_eq!(days_of("2014-02-01", "2014-03-01"), 28);
        assert_eq!(days_of("1900-01-01", "2299-12-31"), 146_096);
    }

    #[test]
    fn a_computed_day_replaces_its_build() {
        let text = "-- summary: N.\n-- table: t\n-- bucket: day(at)\n-- keys: k\n\nselect k, count() as n from {source} group by k";
        let aggregate = Aggregate::parse("n_daily", text).expect("an aggregate");
        let day: RunDate = "2014-01-01".parse().expect("a day");
        let build = day_states::DayBuild {
            build_id: String::new(),
            as_of_batch: 1,
            as_of_lsn: crate::domain::Lsn::ZERO,
            built_at: chrono::DateTime::UNIX_EPOCH,
            rows_in: 1,
            rows_out: 1,
        };
        let mut plan = Plan { states: DayStates::default(), live: BTreeSet::new(), mirror: None, moments: None };
        assert_eq!(plan.source(&aggregate, "2014-01-01").0.matches("where 0").count(), 1, "nothing is built");
        plan.states.builds.insert(day, build);
        let whole = (format!("({})", aggregate.newest_rows()), Vec::new());
        assert_eq!(plan.source(&aggregate, "2014-01-01"), whole);
        plan.live.insert(day);
        let (sql, parameters) = plan.source(&aggregate, "2014-01-01");
        assert!(sql.contains("where day not in ({bucket_0:Date32})"), "{sql}");
        assert!(sql.contains("`at` >= {bucket_from_0:DateTime64(6, 'UTC')}") && !sql.contains(SOURCE), "{sql}");
        assert_eq!(parameters.first(), Some(&("bucket_0".to_owned(), "2014-01-01".to_owned())));
        plan.states.builds.clear();
        assert!(!plan.source(&aggregate, "2014-01-01").0.contains("n_daily"), "what is not there is not read");
    }
}
