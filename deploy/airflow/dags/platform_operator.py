"""What the DAGs of the platform share: an operator that knows the exit codes of `platform`, and how often it tries again."""

import json
import os
from datetime import timedelta
from functools import cached_property

from airflow.providers.standard.hooks.subprocess import SubprocessHook, SubprocessResult
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk.exceptions import AirflowFailException

# Tasks that write days run one at a time: `platform up --airflow` and start.sh make this pool with one slot.
POOL = "platform_etl"

# The exit codes of `platform` that a second try cannot mend: usage, a bad date, a failed data check, a bad configuration.
# 69 (a dependency is unavailable), 70 (a bug), 75 (busy, or the mirror is behind) and a kill are tried again; 99 (nothing to
# do) skips.
HOPELESS = {2, 64, 65, 78}
NOTHING_TO_DO = 99

DEFAULT_ARGS = {
    "retries": 5,
    # Seconds before the first further try; each next one waits twice as long.
    "retry_delay": timedelta(seconds=int(os.environ.get("PLATFORM_RETRY_DELAY_S") or "60")),
    "retry_exponential_backoff": True,
    "max_retry_delay": timedelta(minutes=30),
    "execution_timeout": timedelta(hours=2),
    "pool": POOL,
}


class Hook(SubprocessHook):
    """Fails a task for good where repeating it is useless."""

    def run_command(self, *args, **kwargs) -> SubprocessResult:
        result = super().run_command(*args, **kwargs)
        if result.exit_code in HOPELESS:
            raise AirflowFailException(f"platform ended with {result.exit_code}, which a repetition cannot mend: {result.output}")
        return result


class PlatformOperator(BashOperator):
    """Runs one `platform …`. Its command begins with `exec`: a kill's SIGTERM then reaches the program, which leaves the old
    day or the new one and nothing between. Values come through `env`, so that no parameter is ever read as shell. The last
    line of output is the JSON line of the job; it becomes the XCom. Airflow's AIRFLOW_CTX_* variables reach the program, which
    records them with its run."""

    def __init__(self, **kwargs):
        super().__init__(append_env=True, skip_on_exit_code=NOTHING_TO_DO, output_processor=json.loads, **kwargs)

    @cached_property
    def subprocess_hook(self) -> SubprocessHook:
        return Hook()
