"""Every night, for the day that has just ended (UTC): posts arrive (`fill`), the day's statistics are built (`etl`), ClickHouse
is compared with PostgreSQL (`verify`), and days that changed behind their last build are built again (`dirty`).

`fill` imports the file or folder of `PLATFORM_DAILY_IMPORT` (`{date}` in it becomes the day), or generates
`PLATFORM_DAILY_ROWS` posts; without either it is skipped, because the posts come another way.

By hand, for any day: trigger it with `{"date": "2026-03-01"}`, also with `"import"` or `"rows"`.
"""

import os
from datetime import datetime, timezone

from airflow.sdk import DAG, Param
from airflow.timetables.interval import CronDataIntervalTimetable
from platform_operator import DEFAULT_ARGS, PlatformOperator

# A run by hand need not have an interval; then the day before it.
DATE = "{{ params.date or ((data_interval_start | default(none)) or dag_run.run_after - macros.timedelta(days=1)) | ds }}"

FILL = """\
if [ -n "$PLATFORM_DAILY_IMPORT" ]; then
  exec platform import --on-conflict update -- "${PLATFORM_DAILY_IMPORT//\\{date\\}/$PLATFORM_DATE}"
elif [ "$PLATFORM_DAILY_ROWS" -gt 0 ]; then
  exec platform generate --rows "$PLATFORM_DAILY_ROWS" --date "$PLATFORM_DATE"
fi
exit 99
"""

with DAG(
    dag_id="platform_daily",
    description="The day that has ended: posts, statistics, proof",
    doc_md=__doc__,
    # Not a cron string: since Airflow 3 that means the moment of the run, and `ds` the wrong day. Here the interval of a run
    # at 00:15 begins a day earlier.
    schedule=CronDataIntervalTimetable("15 0 * * *", timezone="UTC"),
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    params={
        "date": Param(None, type=["null", "string"], format="date", description="The day (UTC); empty: yesterday's"),
        "import": Param(os.environ.get("PLATFORM_DAILY_IMPORT", ""), type="string", description="File or folder of posts"),
        "rows": Param(int(os.environ.get("PLATFORM_DAILY_ROWS") or "0"), type="integer", minimum=0, description="Posts to generate"),
    },
    default_args=DEFAULT_ARGS,
    tags=["platform"],
):
    fill = PlatformOperator(
        task_id="fill",
        bash_command=FILL,
        env={
            "PLATFORM_DATE": DATE,
            "PLATFORM_DAILY_IMPORT": "{{ params['import'] }}",
            "PLATFORM_DAILY_ROWS": "{{ params.rows }}",
        },
    )
    etl = PlatformOperator(
        task_id="etl",
        bash_command='exec platform etl --date "$PLATFORM_DATE"',
        env={"PLATFORM_DATE": DATE},
        # Posts that come another way skip `fill`.
        trigger_rule="none_failed",
    )
    verify = PlatformOperator(
        task_id="verify",
        bash_command='exec platform verify',
        # The sink's refresher has often built the day already, which skips `etl`; the proof is wanted all the same.
        trigger_rule="none_failed",
    )
    dirty = PlatformOperator(
        task_id="dirty",
        bash_command='exec platform etl --dirty',
        # A day with nothing to do says nothing about other days.
        trigger_rule="none_failed",
    )
    fill >> etl >> verify >> dirty
