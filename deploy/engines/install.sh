#!/usr/bin/env bash
# Installs the engines that `platform up` and the tests run, without Docker: libchdb, Kafka, Connect, Debezium and,
# where the system has none, PostgreSQL. README.md beside this file says what is pinned and how to change a pin.
#
#   install.sh           install what is missing; a second run installs nothing
#   install.sh --check   only report; exit 1 when something is missing
#   install.sh --lock    install everything anew and write the checksums: after changing a pin
#
#   PLATFORM_ENGINES            target folder (default: .engines in the repository)
#   PLATFORM_ENGINES_POSTGRES   system | npm: where PostgreSQL comes from (default: the system's, else npm's)
#   PLATFORM_ENGINES_PARTS      only these parts, with blanks (default: all); for images
set -euo pipefail
export LC_ALL=C
umask 022 # PostgreSQL runs as another user and must be able to read this

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
engines=${PLATFORM_ENGINES:-$here/../../.engines}
all_parts=(chdb broker connect debezium postgres classes)
read -ra parts <<<"${PLATFORM_ENGINES_PARTS:-${all_parts[*]}}"
postgres_from=${PLATFORM_ENGINES_POSTGRES:-}
postgres_least=14
java_least=17
maven_goal=org.apache.maven.plugins:maven-dependency-plugin:2.8:copy-dependencies
# In the plugin's folder these would only shadow the worker's own.
worker_has=(connect-api kafka-clients slf4j-api lz4-java snappy-java zstd-jni jakarta.ws.rs-api)

say() { printf 'engines: %s\n' "$*"; }
fail() {
  printf 'engines: %s\n' "$@" >&2
  exit 1
}

# ---- what is pinned, and what is there

folder() {
  case $1 in
    broker | connect) echo "$engines/kafka/$1" ;;
    debezium) echo "$engines/kafka/plugins/debezium-connector-postgres" ;;
    classes) echo "$engines/kafka/classes" ;;
    *) echo "$engines/$1" ;;
  esac
}

pinned_version() {
  case $1 in
    chdb | postgres) sed -n 's|.*"@[^"]*": "\([^"]*\)".*|\1|p' "$here/$1/package.json" ;;
    *) sed -n 's|.*<engine.version>\(.*\)</engine.version>.*|\1|p' "$here/$1/pom.xml" ;;
  esac
}

name() {
  case $1 in
    chdb) echo "libchdb $(pinned_version chdb)" ;;
    broker) echo "Kafka broker $(pinned_version broker)" ;;
    connect) echo "Kafka Connect $(pinned_version connect)" ;;
    debezium) echo "Debezium $(pinned_version debezium)" ;;
    postgres) echo "PostgreSQL" ;;
    classes) echo "Java class archives" ;;
  esac
}

# Everything that decides what a part consists of, as one hash. $2 is PostgreSQL's source: system or npm.
pins() {
  case $1 in
    chdb) cat "$here"/chdb/{package.json,package-lock.json,sha256} ;;
    postgres) if [[ $2 == npm ]]; then cat "$here"/postgres/{package.json,package-lock.json}; else echo system; fi ;;
    # Java refuses an archive of another Java, or of jars that were written since.
    classes) { env -u JDK_JAVA_OPTIONS java -version && find "$(realpath -m "$(folder broker)")" "$(realpath -m "$(folder connect)")" -name '*.jar' -printf '%p %s %T@\n' | sort; } 2>&1 |
      cat - "$here"/{broker,connect}/classes.gz ;;
    *) echo "$maven_goal ${worker_has[*]}" | cat - "$here/$1"/{pom.xml,sha256} ;;
  esac | sha256sum | cut -d ' ' -f 1
}

# Names and sizes of a part's files: a jar that was deleted or cut short shows.
contents() {
  (cd "$1" && find . ! -name .stamp \( -type f -o -type l \) -printf '%P %s\n' | sort | sha256sum | cut -d ' ' -f 1)
}

is_postgres() { [[ -x $1/postgres && -x $1/initdb && -x $1/pg_ctl ]]; }

# Major version of the server in folder $1; 0 when there is no usable one.
postgres_major() {
  local said
  is_postgres "$1" && said=$("$1/postgres" --version 2>/dev/null) && [[ $said =~ \(PostgreSQL\)\ ([0-9]+) ]] &&
    echo "${BASH_REMATCH[1]}" || echo 0
}

installed() {
  local part=$1 dir pin_hash content_hash source
  dir=$(folder "$part")
  [[ -f $dir/.stamp ]] || return 1
  read -r pin_hash content_hash <"$dir/.stamp" || return 1
  [[ $content_hash == "$(contents "$dir")" ]] || return 1
  [[ $part == postgres ]] || { [[ $pin_hash == "$(pins "$part")" ]]; return; }
  # A source once chosen stays, because the data folder belongs to one major version.
  is_postgres "$dir/bin" || return 1
  for source in ${postgres_from:-system npm}; do
    [[ $pin_hash != "$(pins postgres "$source")" ]] || return 0
  done
  return 1
}

missing_parts() {
  local part
  for part in "${parts[@]}"; do
    installed "$part" || echo "$part"
  done
}

# ---- what this machine must have

system_postgres() {
  local dir major best=0 best_dir=
  for dir in /usr/lib/postgresql/*/bin "$(pg_config --bindir 2>/dev/null || true)"; do
    [[ -n $dir ]] || continue
    major=$(postgres_major "$dir")
    if ((major >= postgres_least && major > best)); then
      best=$major best_dir=$dir
    fi
  done
  echo "$best_dir"
}

require_tools() { # the parts to install
  local part tool said
  local -A lacks=() # tool → the Debian package that brings it
  need() { command -v "$1" >/dev/null || lacks[$1]=$2; }
  need java openjdk-17-jre-headless
  for part; do
    need flock util-linux
    case $part in
      chdb) need node nodejs && need npm npm ;;
      broker | connect | debezium) need mvn maven ;;
      classes) need gzip gzip ;;
      postgres) [[ $postgres_from == system || ($postgres_from != npm && -n $(system_postgres)) ]] || { need node nodejs && need npm npm; } ;;
    esac
  done
  if ((${#lacks[@]})); then
    fail "missing: $(for tool in "${!lacks[@]}"; do printf '%s (Debian package %s), ' "$tool" "${lacks[$tool]}"; done | sed 's/, $//')" \
      "install with:  apt-get install ${lacks[*]}"
  fi
  said=$(java -version 2>&1) || fail "java does not start: $said"
  [[ $said =~ version\ \"([0-9]+) ]] || fail "cannot tell java's version from: $said"
  ((BASH_REMATCH[1] >= java_least)) ||
    fail "java is version ${BASH_REMATCH[1]}, $java_least or newer is needed:  apt-get install openjdk-17-jre-headless"
}

require_machine() { # the parts to install; jars run everywhere
  [[ " $* " == *" chdb "* || " $* " == *" postgres "* ]] || return 0
  if [[ $(uname -sm) != "Linux x86_64" ]] || ! getconf GNU_LIBC_VERSION &>/dev/null; then
    fail "the pinned engines are for Linux on x86-64 with glibc; this is $(uname -sm)"
  fi
}

warn_without_avx2() {
  grep -qw avx2 /proc/cpuinfo ||
    say "warning: this CPU has no AVX2; libchdb needs it, so 'platform clickhouse' cannot run here" >&2
}

# ---- one function a part: fills the empty folder $2

run() { # a command whose output matters only when it fails
  # It inherits the lock: should this script be killed, the next run waits for what it left running.
  "$@" >"$log" 2>&1 </dev/null || {
    tail -n 30 "$log" >&2
    fail "failed: $*"
  }
}

# The files in folder $2 must be exactly those that deploy/engines/$1/sha256 lists.
verify() {
  local found
  found=$(cd "$2" && sha256sum -- *)
  if [[ $mode == lock ]]; then
    printf '%s\n' "$found" >"$here/$1/sha256"
  elif [[ $found != "$(cat "$here/$1/sha256")" ]]; then
    diff "$here/$1/sha256" <(printf '%s\n' "$found") >&2 || true
    fail "$(name "$1"): the files differ from deploy/engines/$1/sha256 (after changing a pin: install.sh --lock)"
  fi
}

npm_package() { # fetches part $1's only package into folder $2
  local work=$2.npm
  mkdir "$work"
  [[ $mode != lock ]] || (cd "$here/$1" && run npm install --package-lock-only --omit-lockfile-registry-resolved --ignore-scripts)
  cp "$here/$1"/package{,-lock}.json "$work"
  (cd "$work" && run npm ci --ignore-scripts --no-audit --no-fund)
  compgen -G "$work/node_modules/@*/*/package.json" >/dev/null || fail "npm ended well but installed nothing: run this again"
  mv "$work"/node_modules/@*/*/* "$2"
  rm -rf "$work"
}

maven_jars() {
  run mvn -q -B -C -Dstyle.color=never -f "$here/$1/pom.xml" "$maven_goal" -DincludeScope=runtime "-DoutputDirectory=$2"
}

install_chdb() {
  npm_package chdb "$1"
  find "$1" -mindepth 1 ! -name libchdb.so -delete
  verify chdb "$1"
}

install_broker() {
  maven_jars broker "$1"
  verify broker "$1"
}

install_connect() {
  maven_jars connect "$1"
  verify connect "$1"
}

install_debezium() {
  local jar
  maven_jars debezium "$1"
  for jar in "${worker_has[@]}"; do
    rm "$1/$jar"-[0-9]*.jar
  done
  verify debezium "$1"
}

install_postgres() {
  if [[ $postgres_source == system ]]; then
    ln -s "$(system_postgres)" "$1/bin"
    return
  fi
  npm_package postgres "$1"
  (cd "$1" && run node scripts/hydrate-symlinks.js) # npm packages cannot hold symlinks; this is their own post-install
  ln -s native/bin "$1/bin"
  (($(postgres_major "$1/bin") >= postgres_least)) || fail "the packaged PostgreSQL does not start: $("$1/bin/postgres" --version 2>&1)"
}

# What Java would otherwise read, verify and link at every start of the broker and of the worker. Only a matter of time: without an
# archive both start as well.
install_classes() {
  archive_classes broker "$1" &
  archive_classes connect "$1" &
  wait
}

archive_classes() {
  local part=$1 archive=$2/$1.jsa list=$2/$1.classes said=$2/$1.log
  [[ -d $(folder "$part") ]] || return 0
  gzip -dc "$here/$part/classes.gz" >"$list"
  if ! env -u JDK_JAVA_OPTIONS java -Xshare:dump -XX:SharedClassListFile="$list" -XX:SharedArchiveFile="$archive" -cp "$(folder "$part")/*" &>"$said" </dev/null; then
    tail -n 3 "$said" >&2
    say "warning: this Java archives no classes for $(name "$part"); it will take some seconds more to start" >&2
    rm -f "$archive"
  fi
  rm -f "$list" "$said"
}

install_part() {
  local part=$1 new dir started took size what
  dir=$(folder "$part")
  started=${EPOCHREALTIME/./}
  what=$(name "$part")
  new=$(mktemp -d "$engines/.new.XXXXXX")
  chmod 755 "$new"
  mkdir -p "$(dirname "$dir")"
  [[ $part != postgres ]] || choose_postgres
  "install_$part" "$new"
  echo "$(pins "$part" "$postgres_source") $(contents "$new")" >"$new/.stamp"
  [[ ! -e $dir ]] || mv "$dir" "$engines/.old.$part"
  mv "$new" "$dir"
  rm -rf "$engines/.old.$part"

  took=$(((${EPOCHREALTIME/./} - started) / 100000))
  if [[ $part == postgres ]]; then
    say "$("$dir/bin/postgres" --version | cut -d ' ' -f 2- | tr -d '()' | cut -d ' ' -f 1,2) in $(readlink -f "$dir/bin")"
  else
    size=$(du -sb "$dir" | cut -f 1)
    say "$(printf '%-28s %4d MB  %3d.%d s' "$what" $((size / 1000000)) $((took / 10)) $((took % 10)))"
  fi
}

choose_postgres() {
  postgres_source=$postgres_from
  [[ -n $postgres_source ]] || if [[ -n $(system_postgres) ]]; then postgres_source=system; else postgres_source=npm; fi
  [[ $postgres_source == npm || -n $(system_postgres) ]] ||
    fail "this system has no PostgreSQL $postgres_least or newer:  apt-get install postgresql"
}

# ---- main

mode=install
postgres_source=
case ${1:-} in
  '') ;;
  --check) mode=check ;;
  --lock) mode=lock ;;
  *) fail "usage: install.sh [--check | --lock]" ;;
esac
(($# <= 1)) || fail "usage: install.sh [--check | --lock]"
case $postgres_from in
  '' | system | npm) ;;
  *) fail "PLATFORM_ENGINES_POSTGRES is '$postgres_from'; it may be system or npm" ;;
esac

for part in "${parts[@]}"; do
  [[ " ${all_parts[*]} " == *" $part "* ]] || fail "PLATFORM_ENGINES_PARTS: there is no part '$part'; there are ${all_parts[*]}"
done

mapfile -t todo < <(missing_parts)
[[ $mode != lock ]] || todo=("${parts[@]}")

if [[ $mode == check ]]; then
  warn_without_avx2
  for part in "${todo[@]}"; do
    say "$(name "$part"): not installed, or not as pinned"
  done
  require_tools "${todo[@]}"
  ((${#todo[@]} == 0)) || fail "install with:  deploy/engines/install.sh"
fi
if ((${#todo[@]} == 0)); then
  require_tools
  engines=$(cd "$engines" && pwd -P)
  say "complete in $engines"
  exit 0
fi

require_machine "${todo[@]}"
require_tools "${todo[@]}"
mkdir -p "$engines"
engines=$(cd "$engines" && pwd -P)
exec 9>"$engines/.lock"
if ! flock -n 9; then
  say "waiting for another installation into $engines"
  flock 9
  mapfile -t todo < <(missing_parts)
  [[ $mode != lock ]] || todo=("${parts[@]}")
fi
# Jars that are installed now are other ones than those of the archives.
if [[ " ${parts[*]} " == *" classes "* && " ${todo[*]-} " =~ \ (broker|connect)\  && " ${todo[*]-} " != *" classes "* ]]; then
  todo+=(classes)
fi
log=$engines/.log
trap 'rm -rf "$engines"/.new.* "$engines"/.old.*' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
rm -rf "$engines"/.new.* "$engines"/.old.* # of an interrupted run

((${#todo[@]} == 0)) || say "installing ${#todo[@]} of ${#parts[@]} parts into $engines"
for part in "${todo[@]}"; do
  [[ $part != chdb ]] || warn_without_avx2
  install_part "$part"
done
rm -f "$log"
say "complete in $engines"
