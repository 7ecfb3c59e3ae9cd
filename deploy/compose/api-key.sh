#!/usr/bin/env bash
# Stores the first API key, of which PostgreSQL knows only the hash; a key that is there stays as it is.
set -euo pipefail

secrets=${PLATFORM_SECRETS:-/run/platform-secrets}
PGPASSWORD=$(<"$secrets/password")
export PGPASSWORD
export PGHOST=${PGHOST:-postgres} PGUSER=postgres PGDATABASE=platform PGCONNECT_TIMEOUT=10

psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 \
  --set=prefix="$(<"$secrets/api_key_prefix")" --set=hash="$(<"$secrets/api_key_sha256")" <<'SQL'
insert into platform.api_keys (prefix, sha256, scopes, label)
values (:'prefix', decode(:'hash', 'hex'), '{read,write,admin}', 'compose')
on conflict (prefix) do nothing;
SQL
