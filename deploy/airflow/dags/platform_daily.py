"""Rebuilds one day of statistics with `platform etl --date`, every night, for the day that has just ended (UTC).

By hand, for any day: trigger it with `{"date": "2026-03-01"}`.
"""

import json
from datetime import datetime, timedelta, timezone
from functools import cached_property

from airflow.providers.standard.hooks.subprocess import SubprocessHook, SubprocessResult
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, Param
from airflow.sdk.exceptions import AirflowFailException
from airflow.timetables.interval import CronDataIntervalTimetable

# The exit codes of `platform` that a second try cannot mend: usage, a bad date, a failed data check, a bad configuration.
# 69 (a dependency is unavailable), 70 (a bug) and 75 (busy, or the mirror is behind) are tried again; 99 (nothing to do) skips.
HOPELESS = {2, 64, 65, 78}


class Hook(SubprocessHook):
    """Fails a task for good where repeating it is useless."""

    def run_command(self, *args, **kwargs) -> SubprocessResult:
        result = super().run_command(*args, **kwargs)
        if result.exit_code in HOPELESS:
            raise AirflowFailException(f"platform ended with {result.exit_code}, which a repetition cannot mend: {result.output}")
        return result


class PlatformOperator(BashOperator):
    """A BashOperator that knows the exit codes of `platform`."""

    @cached_property
    def subprocess_hook(self) -> SubprocessHook:
        return Hook()


with DAG(
    dag_id="platform_daily",
    description="Statistics of the day that has ended, rebuilt from the mirror",
    doc_md=__doc__,
    # Not a cron string: since Airflow 3 that means the moment of the run, and `ds` the wrong day. Here the interval of a run
    # at 00:15 begins a day earlier.
    schedule=CronDataIntervalTimetable("15 0 * * *", timezone="UTC"),
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    params={"date": Param(None, type=["null", "string"], format="date", description="The day (UTC); empty: yesterday's")},
    default_args={
        "retries": 5,
        "retry_delay": timedelta(minutes=1),
        "retry_exponential_backoff": True,
        "max_retry_delay": timedelta(minutes=30),
        "execution_timeout": timedelta(hours=2),
    },
    tags=["platform"],
):
    PlatformOperator(
        task_id="etl",
        # `exec`: a kill's SIGTERM reaches the program, which leaves the old day or the new one and nothing between.
        bash_command='exec platform etl --date "$PLATFORM_DATE"',
        # Through the environment, so that no parameter is ever read as shell.
        env={"PLATFORM_DATE": "{{ params.date or (data_interval_start | ds) }}"},
        append_env=True,
        skip_on_exit_code=99,
        # The last line of output is the JSON line of the job; it becomes the XCom.
        output_processor=json.loads,
    )
