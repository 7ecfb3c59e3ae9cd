#!/usr/bin/env bash
# Starts all of Airflow in this container. The administrator's password is the one of the secrets: Airflow keeps its file
# where it can write it, and would make and print a password of its own where there is none.
set -euo pipefail

install --mode=0600 "${PLATFORM_SECRETS:-/run/platform-secrets}/passwords.json" \
  "$AIRFLOW_HOME/simple_auth_manager_passwords.json.generated"
# Tasks that write days run one at a time.
airflow db migrate
airflow pools set platform_etl 1 "platform etl: one at a time"
exec airflow standalone
