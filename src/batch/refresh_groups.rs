//! Stale buckets by the rows that they are made of: aggregates that cut the same table the same way share one read. Pure.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::aggregates::Stale;
use crate::catalog::Aggregate;

/// A stale bucket of an aggregate.
pub(super) type Due<'a> = (&'a Aggregate, Stale);

/// The buckets of every list, each list's in its order, and each followed by those of the other lists that are made of the same rows.
pub(super) fn groups(lists: Vec<(&Aggregate, Vec<Stale>)>) -> Vec<Vec<Due<'_>>> {
    let mut groups: Vec<Vec<Due<'_>>> = Vec::new();
    let mut places: HashMap<_, usize> = HashMap::new();
    for (aggregate, stale) in
        lists.into_iter().flat_map(|(aggregate, list)| list.into_iter().map(move |one| (aggregate, one)))
    {
        // Hours and days are both rebuilt by the day.
        let rows = (&aggregate.table, &aggregate.bucket_column, aggregate.unit.column(), stale.bucket);
        match places.entry(rows) {
            Entry::Occupied(place) => {
                if let Some(group) = groups.get_mut(*place.get()) {
                    group.push((aggregate, stale));
                }
            }
            Entry::Vacant(place) => {
                place.insert(groups.len());
                groups.push(vec![(aggregate, stale)]);
            }
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    fn aggregate(name: &str, table: &str, bucket: &str) -> Aggregate {
        let hour = if bucket.starts_with("hour") { "{hour} as hour, " } else { "" };
        let keys = if hour.is_empty() { "kind" } else { "hour, kind" };
        let text = format!(
            "-- summary: Some.\n-- table: {table}\n-- bucket: {bucket}\n-- keys: {keys}\nselect {hour}kind, count() as n from {{source}} group by {keys}"
        );
        Aggregate::parse(name, &text).expect("an aggregate")
    }

    fn stale(buckets: &[&str]) -> Vec<Stale> {
        let one =
            |bucket: &&str| Stale { bucket: bucket.parse().expect("a day"), mark: 1, as_of: None, noted_at: None };
        buckets.iter().map(one).collect()
    }

    #[test]
    fn what_is_made_of_the_same_rows_stands_together() {
        let daily = aggregate("daily", "posts", "day(posted_at)");
        let hourly = aggregate("hourly", "posts", "hour(posted_at)");
        let monthly = aggregate("monthly", "posts", "month(posted_at)");
        let seen = aggregate("seen", "posts", "day(seen_at)");
        let others = aggregate("others", "votes", "day(posted_at)");
        let lists = vec![
            (&daily, stale(&["2024-05-02", "2024-05-01"])),
            (&hourly, stale(&["2024-05-03", "2024-05-01"])),
            (&monthly, stale(&["2024-05-01"])),
            (&seen, stale(&["2024-05-01"])),
            (&others, stale(&["2024-05-01"])),
        ];
        let named: Vec<Vec<String>> = groups(lists)
            .iter()
            .map(|group| group.iter().map(|(of, stale)| format!("{} {}", of.name, stale.bucket)).collect())
            .collect();
        assert_eq!(
            named,
            [
                vec!["daily 2024-05-02"],
                vec!["daily 2024-05-01", "hourly 2024-05-01"],
                vec!["hourly 2024-05-03"],
                vec!["monthly 2024-05-01"],
                vec!["seen 2024-05-01"],
                vec!["others 2024-05-01"],
            ]
        );
    }
}
