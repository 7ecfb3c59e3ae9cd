#!/usr/bin/env bash
# Makes every password of the Compose stack at random, once, and hands each service its own and no others.
#
#   secrets.sh make         what is missing, and every service's folder anew (what `docker compose up` runs)
#   secrets.sh show NAME    print one
#   secrets.sh list         print the names
#
# Under PLATFORM_SECRETS (default: /secrets) lie one folder a volume: `all`, which no service sees, and one for each of
# the services that have secrets, owned by the user it runs as. A file ends without a newline.
set -euo pipefail
umask 077

root=${PLATFORM_SECRETS:-/secrets}
all=$root/all
names=(api_key postgres_admin postgres_api postgres_sink postgres_etl postgres_debezium clickhouse_platform clickhouse_etl
  clickhouse_reader airflow_admin airflow_jwt airflow_session airflow_fernet)
database=postgres:5432/platform

fail() {
  printf 'secrets: %s\n' "$*" >&2
  exit 1
}

hexadecimal() { od --address-radix=n --format=x1 --read-bytes="$1" /dev/urandom | tr -d ' \n'; }

# Letters and digits only, so that a URL and a shell take a password as it is.
password() {
  local text
  text=$(head --bytes=96 /dev/urandom | base64 --wrap=0 | tr -d '+/=')
  ((${#text} >= 32)) || fail "the machine's random numbers are none"
  printf %s "${text:0:32}"
}

make_one() {
  case $1 in
    api_key) printf 'pk_%s_%s' "$(hexadecimal 4)" "$(hexadecimal 32)" ;;
    airflow_fernet) head --bytes=32 /dev/urandom | base64 --wrap=0 | tr '+/' '-_' ;;
    *) password ;;
  esac
}

get() { cat "$all/$1"; }

sha256() { get "$1" | sha256sum | cut --delimiter=' ' --fields=1; }

owner=
folder=
# The folder of service $1, whose user is $2.
service() {
  folder=$root/$1 owner=$2
  mkdir --parents "$folder"
  chown "$owner" "$folder"
  chmod 0500 "$folder"
}

# A file of that folder, from stdin.
give() {
  cat >"$folder/$1.new"
  chown "$owner" "$folder/$1.new"
  chmod 0400 "$folder/$1.new"
  mv "$folder/$1.new" "$folder/$1"
}

postgres_url() { printf 'postgres://%s:%s@%s' "$1" "$(get "$2")" "$database"; }

make_all() {
  local name made=0
  mkdir --parents "$all"
  chmod 0700 "$all"
  for name in "${names[@]}"; do
    if [[ ! -s $all/$name ]]; then
      make_one "$name" >"$all/$name.new"
      mv "$all/$name.new" "$all/$name"
      made=$((made + 1))
    fi
  done

  # The users are those of the images: PostgreSQL's 999, ClickHouse's 101, Airflow's 50000, ours 65532.
  service postgres 999:999
  get postgres_admin | give password
  get api_key | cut --delimiter=_ --fields=2 | tr -d '\n' | give api_key_prefix
  sha256 api_key | tr -d '\n' | give api_key_sha256

  service clickhouse 101:101
  printf '<clickhouse>%s</clickhouse>\n' "$(for name in platform etl reader; do
    printf '<%s_password_sha256>%s</%s_password_sha256>' "$name" "$(sha256 "clickhouse_$name")" "$name"
  done)" | give passwords.xml

  service admin 65532:65532
  postgres_url postgres postgres_admin | give postgres_url
  for name in api sink etl debezium; do
    get "postgres_$name" | give "postgres_${name}_password"
  done
  get clickhouse_platform | give clickhouse_password

  service sink 65532:65532
  postgres_url platform_sink postgres_sink | give postgres_url
  get clickhouse_platform | give clickhouse_password

  service api 65532:65532
  postgres_url platform_api postgres_api | give postgres_url
  get clickhouse_reader | give clickhouse_password

  service connect 65532:65532
  get postgres_debezium | give debezium_password

  service airflow 50000:0
  postgres_url platform_etl postgres_etl | give postgres_url
  get clickhouse_etl | give clickhouse_password
  printf '{"admin": "%s"}\n' "$(get airflow_admin)" | give passwords.json
  for name in jwt session fernet; do
    get "airflow_$name" | give "$name"
  done

  printf 'secrets: %d made, %d kept\n' "$made" $((${#names[@]} - made)) >&2
}

case ${1:-} in
  make) make_all ;;
  list) printf '%s\n' "${names[@]}" ;;
  show)
    [[ " ${names[*]} " == *" ${2:-} "* && -n ${2:-} ]] || fail "there is no secret '${2:-}'; there are: ${names[*]}"
    [[ -s $all/$2 ]] || fail "not made yet: run docker compose up"
    get "$2"
    echo
    ;;
  *) fail "usage: secrets.sh make | show NAME | list" ;;
esac
