#!/bin/sh
# `platform load`, but only until it has succeeded once: `docker compose up` runs this at every start. A later load is
# `docker compose run --rm platform load`.
set -eu

done_file=${PLATFORM_LOADED:-/var/lib/platform/loaded}
if [ -e "$done_file" ]; then
  echo "first-load: done before" >&2
  exit 0
fi

platform load &
child=$!
# A shell in the foreground of a container hands no signal on by itself.
trap 'kill -TERM "$child" 2>/dev/null || true' TERM INT
code=0
wait "$child" || code=$?
# A signal ends the first wait before the child has ended.
while kill -0 "$child" 2>/dev/null; do
  code=0
  wait "$child" || code=$?
done
if [ "$code" -eq 0 ]; then
  : >"$done_file"
fi
exit "$code"
