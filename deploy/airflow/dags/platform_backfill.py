"""Builds the statistics of a range of days again, then compares ClickHouse with PostgreSQL. Trigger it with
`{"from": "2026-03-01", "to": "2026-03-07"}`, and `"force": true` to build days although nothing has changed.

The days of one run are one task: a retry passes over those that are built already. Airflow's own backfill
(`airflow backfill create --dag-id platform_daily …`) works too, with a run a day.
"""

from datetime import datetime, timezone

from airflow.sdk import DAG, Param
from platform_operator import DEFAULT_ARGS, PlatformOperator

with DAG(
    dag_id="platform_backfill",
    description="A range of days, by hand",
    doc_md=__doc__,
    schedule=None,
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    max_active_runs=1,
    is_paused_upon_creation=False,
    params={
        "from": Param(None, type=["null", "string"], format="date", description="First day (UTC)"),
        "to": Param(None, type=["null", "string"], format="date", description="Last day (UTC); it belongs to the range"),
        "force": Param(False, type="boolean", description="Build days although nothing has changed"),
    },
    default_args=DEFAULT_ARGS,
    tags=["platform"],
):
    etl = PlatformOperator(
        task_id="etl",
        bash_command='exec platform etl --from "$PLATFORM_FROM" --to "$PLATFORM_TO" $PLATFORM_FORCE',
        env={
            "PLATFORM_FROM": "{{ params['from'] }}",
            "PLATFORM_TO": "{{ params['to'] }}",
            "PLATFORM_FORCE": "{{ '--force' if params.force else '' }}",
        },
    )
    verify = PlatformOperator(
        task_id="verify",
        bash_command='exec platform verify',
    )
    etl >> verify
