//! What runs at night.

/// What Airflow and cron start, with a day or a number for what they fill in.
pub(crate) fn commands() -> Vec<(String, String)> {
    let mut lines = Vec::new();
    for (file, before) in [
        ("deploy/airflow/dags/platform_daily.py", "exec platform "),
        ("deploy/airflow/dags/platform_backfill.py", "exec platform "),
        ("deploy/cron/crontab", "*    platform-cron "),
        ("deploy/cron/crontab", "*  platform-cron "),
    ] {
        for line in super::read(file).lines() {
            let Some((_, call)) = line.split_once(before) else { continue };
            let call = call.trim_end_matches("',").replace(" $PLATFORM_FORCE", " --force");
            // What is quoted is one word.
            let words = call.split('"').enumerate().map(|(at, part)| match part {
                quoted if at % 2 == 1 && quoted.contains("ROWS") => "7",
                _ if at % 2 == 1 => "2026-03-01",
                plain => plain,
            });
            lines.push((file.to_owned(), words.collect::<String>()));
        }
    }
    lines
}
