#!/usr/bin/env bash
# Succeeds when the worker says that it is ready: it has joined its group and read its topics. Needs no curl.
set -euo pipefail

exec 3<>"/dev/tcp/127.0.0.1/${1:-8083}"
printf 'GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n' >&3
read -r -t 5 _ status _ <&3
[[ $status == 200 ]]
