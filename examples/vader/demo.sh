#!/usr/bin/env bash
# Installs the source package, turns its rated texts into posts, imports them into the platform that runs here, and rebuilds
# the statistics of their days. Safe to repeat: nothing is fetched or written twice.
#   examples/vader/demo.sh [PLATFORM]     PLATFORM is the program; default target/debug/platform
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
platform=${1:-target/debug/platform}
python=${PYTHON:-python3}
folder=${VADER_FOLDER:-.platform/vader}
package=$folder/vaderSentiment-3.3.2.tar.gz

mkdir --parents "$folder"
if [[ ! -e $package ]]; then
  echo "demo: fetching the source package vaderSentiment 3.3.2 (MIT licence; Hutto and Gilbert, ICWSM 2014)" >&2
  "$python" -m venv "$folder/venv"
  "$folder/venv/bin/python" -m pip download --quiet --disable-pip-version-check --no-deps --no-binary vaderSentiment \
    --require-hashes --requirement "$here/requirements.txt" --dest "$folder/new"
  mv "$folder/new/$(basename "$package")" "$package"
  rm --recursive "$folder/venv" "$folder/new"
fi
"$python" "$here/convert.py" "$package" > "$folder/posts.ndjson"
"$platform" import "$folder/posts.ndjson"
# 99: these days are built already.
"$platform" etl --from 2014-01-01 --to 2014-03-31 || [[ $? == 99 ]]
