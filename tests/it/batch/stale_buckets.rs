//! Which buckets are to be built, of aggregates with buckets of their own, in one look.

use platform::batch::aggregates;
use platform::catalog::Aggregate;
use platform::store::builds::{self, Build};
use platform::store::mirror_day::MirrorTable;
use platform::store::stale_buckets::{self, StaleBuckets};

use super::mirrored::Mirrored;

/// Marks by name: of the whole table at batch 7 for `others`, of days otherwise; the last day of all ends nowhere.
const MARKS: &str = "insert into platform.dirty_buckets values \
    ('days', 0, '2024-05-01', 5, '2024-06-01 00:00:01'), ('days', 0, '2024-05-02', 6, '2024-06-01 00:00:02'), \
    ('days', 0, '2024-05-03', 7, '2024-06-01 00:00:03'), ('days', 0, '1969-12-31', 4, '2024-06-01 00:00:00'), \
    ('days', 0, '2299-12-31', 9, '2024-06-01 00:00:09'), \
    ('months', 0, '2024-05-01', 5, '2024-06-01 00:00:01'), ('months', 0, '2024-05-31', 6, '2024-06-01 00:00:02'), \
    ('months', 0, '2024-04-30', 4, '2024-06-01 00:00:00'), \
    ('others', 0, '2024-05-01', 8, '2024-06-01 00:00:08'), ('others', 0, '2024-05-02', 2, '2024-06-01 00:00:02'), \
    ('others', 1, '1970-01-01', 7, '2024-06-01 00:00:07'), ('stranger', 0, '2024-05-01', 9, '2024-06-01 00:00:09')";

#[tokio::test(flavor = "multi_thread")]
async fn several_aggregates_are_looked_at_at_once() {
    let bench = Mirrored::caught_up().await;
    let named = |(name, bucket, key, column): (&str, &str, &str, &str)| {
        let file = format!(
            "-- summary: some\n-- table: sentiment_social\n-- bucket: {bucket}(posted_at)\n-- keys: {key}\n\n\
             select {column} as {key}, count() as n from {{source}} group by {key}\n"
        );
        bench.file(&format!("{name}.sql"), &file)
    };
    let files = [
        ("days", "day", "spoken", "lang"),
        ("idle", "day", "spoken", "lang"),
        ("months", "month", "spoken", "lang"),
        ("others", "hour", "hour", "{hour}"),
    ]
    .map(named);
    let folder = files[0].parent().expect("a folder").display().to_string();
    let all = aggregates::all(&folder).expect("parsed");
    bench.ask(MARKS).await;
    for (aggregate, bucket, as_of) in
        [(0, "2024-05-01", 5), (0, "2024-05-02", 5), (2, "2024-05-01", 9), (2, "2024-04-01", 3), (3, "2024-05-03", 6)]
    {
        store(&bench, &all[aggregate], bucket, as_of).await;
    }
    let [days, idle, months, others] = [0, 1, 2, 3].map(|at| (&all[at], None));

    let together = stale_buckets::list(&bench.clickhouse, &[others, days, idle, months], 100).await.expect("listed");
    assert_eq!(
        together.iter().map(shown).collect::<Vec<_>>(),
        [
            // The newest mark of the whole counts for every bucket that is known.
            "whole 7: 2024-05-03 7 after 6 noted 07, 2024-05-02 7 never noted 07, 2024-05-01 8 never noted 08",
            "whole 0: 2024-05-03 7 never noted 03, 2024-05-02 6 after 5 noted 02, 1969-12-31 4 never noted 00",
            "whole 0: ",
            "whole 0: 2024-04-01 4 after 3 noted 00",
        ]
    );
    for (at, one) in [others, days, idle, months].into_iter().enumerate() {
        let alone = stale_buckets::list(&bench.clickhouse, &[one], 100).await.expect("listed");
        assert_eq!(alone, together[at..=at]);
    }
    let latest = stale_buckets::list(&bench.clickhouse, &[days], 3).await.expect("listed");
    // One of them is the day of no end.
    assert_eq!(latest[0].buckets, together[1].buckets[..2].to_vec().as_slice());
    let all_of_them: Vec<&Aggregate> = all.iter().collect();
    assert_eq!(
        stale_buckets::count(&bench.clickhouse, &all_of_them).await.expect("counted"),
        8,
        "with the day of no end"
    );
    assert_eq!(stale_buckets::count(&bench.clickhouse, &[]).await.expect("counted"), 0);

    // With the mirror also what has rows and was never marked.
    let row = "insert into mirror.sentiment_social (id, posted_at, _version) values (1, '2024-03-09 10:00:00', 5), (2, '2024-05-01 10:00:00', 5)";
    bench.ask(row).await;
    let mirror = MirrorTable::find(&bench.clickhouse, &all[1]).await.expect("asked").expect("there is one");
    let with_rows = stale_buckets::list(&bench.clickhouse, &[(&all[1], Some(&mirror)), months], 100).await;
    let with_rows = with_rows.expect("listed");
    assert_eq!(shown(&with_rows[0]), "whole 0: 2024-05-01 0 never, 2024-03-09 0 never");
    assert_eq!(with_rows[1], together[3], "it was asked for without");
    let months = stale_buckets::list(&bench.clickhouse, &[(&all[2], Some(&mirror))], 100).await.expect("listed");
    assert_eq!(shown(&months[0]), "whole 0: 2024-04-01 4 after 3 noted 00, 2024-03-01 0 never");
}

async fn store(bench: &Mirrored, aggregate: &Aggregate, bucket: &str, as_of_batch: u64) {
    let build = Build {
        build_id: uuid::Uuid::now_v7(),
        as_of_batch,
        as_of_lsn: platform::domain::Lsn::new(1),
        fingerprint: String::new(),
        rows_in: 0,
        rows_out: 0,
    };
    let day = bucket.parse().expect("a day");
    builds::store(&bench.clickhouse, &aggregate.key(), day, &build).await.expect("stored");
}

fn shown(known: &StaleBuckets) -> String {
    let buckets = known.buckets.iter().map(|stale| {
        let built = stale.as_of.map_or_else(|| "never".to_owned(), |as_of| format!("after {as_of}"));
        let noted = stale.noted_at.map_or_else(String::new, |at| at.format(" noted %S").to_string());
        format!("{} {} {built}{noted}", stale.bucket, stale.mark)
    });
    format!("whole {}: {}", known.whole, buckets.collect::<Vec<_>>().join(", "))
}
