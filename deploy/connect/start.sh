#!/usr/bin/env bash
# Starts the Connect worker of the image.
#
#   CONNECT_BOOTSTRAP_SERVERS   Kafka's brokers, host:port (required)
#   CONNECT_ADVERTISED_HOST     the name by which other workers reach this one (default: the container's)
#   CONNECT_HEAP                flags for the heap (default: -Xms128m -Xmx512m)
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
properties=$(mktemp --tmpdir worker.XXXXXX.properties)

: "${CONNECT_BOOTSTRAP_SERVERS:?is not set: name the brokers, host:port}"
sed -e "s|@BOOTSTRAP_SERVERS@|$CONNECT_BOOTSTRAP_SERVERS|" \
  -e "s|@ADVERTISED_HOST@|${CONNECT_ADVERTISED_HOST:-$HOSTNAME}|" \
  "$here/worker.properties" >"$properties"

read -ra heap <<<"${CONNECT_HEAP:--Xms128m -Xmx512m}"
# Without memory a worker would stay as a zombie that answers and does nothing: ExitOnOutOfMemoryError.
exec java "${heap[@]}" -XX:+ExitOnOutOfMemoryError -Djava.awt.headless=true -Dfile.encoding=UTF-8 \
  -Dorg.slf4j.simpleLogger.logFile=System.out \
  -Dorg.slf4j.simpleLogger.showDateTime=true \
  "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSX" \
  -Dorg.slf4j.simpleLogger.log.org.apache.kafka.clients=warn \
  -Dorg.slf4j.simpleLogger.log.org.apache.kafka.common.config=warn \
  -cp "/opt/kafka/connect/*" org.apache.kafka.connect.cli.ConnectDistributed "$properties"
