#!/usr/bin/env bash
# Fetches the source package, turns its rated texts into posts, imports them into the platform that runs here, and rebuilds
# the statistics of their days. Safe to repeat: nothing is fetched or written twice.
#   examples/vader/demo.sh [PLATFORM]     PLATFORM is the program; default target/debug/platform
# VADER_FOLDER (.platform/vader) is where the package and the converted posts are.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
platform=${1:-target/debug/platform}
python=${PYTHON:-python3}
folder=${VADER_FOLDER:-.platform/vader}

PYTHON=$python "$here/fetch.sh" "$folder"
"$python" "$here/convert.py" "$folder/vaderSentiment-3.3.2.tar.gz" > "$folder/posts.ndjson"
"$platform" import "$folder/posts.ndjson"
for try in 1 2 3 4 5; do
  code=0
  "$platform" etl --from 2014-01-01 --to 2014-03-31 || code=$?
  case $code in
    # 99: these days are built already.
    0 | 99) exit 0 ;;
    # 75: the sink rebuilds days that changed by itself, and is at work on one of them.
    75) echo "demo: try $((try + 1))" >&2 && sleep 3 ;;
    *) exit "$code" ;;
  esac
done
exit "$code"
