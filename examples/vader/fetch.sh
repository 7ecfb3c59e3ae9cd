#!/usr/bin/env bash
# Fetches the source package whose texts the demo imports, by pip, which checks its SHA-256. Nothing is fetched twice.
#   examples/vader/fetch.sh FOLDER     leaves FOLDER/vaderSentiment-3.3.2.tar.gz
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=$1
package=vaderSentiment-3.3.2.tar.gz
[[ ! -e $folder/$package ]] || exit 0

echo "demo: fetching the source package vaderSentiment 3.3.2 (MIT licence; Hutto and Gilbert, ICWSM 2014)" >&2
mkdir --parents "$folder"
new=$(mktemp --directory --tmpdir="$folder" new.XXXXXX)
trap 'rm --recursive --force "$new"' EXIT
"${PYTHON:-python3}" -m venv "$new/venv"
"$new/venv/bin/python" -m pip download --quiet --disable-pip-version-check --no-deps --no-binary vaderSentiment \
  --require-hashes --requirement "$here/requirements.txt" --dest "$new"
mv "$new/$package" "$folder/$package"
