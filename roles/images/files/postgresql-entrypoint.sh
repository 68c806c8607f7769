#!/bin/sh
# Makes the database cluster when PGDATA is empty, then becomes the server. Reads POSTGRES_USER, POSTGRES_PASSWORD (or
# POSTGRES_PASSWORD_FILE), POSTGRES_DB, POSTGRES_INITDB_ARGS and PGDATA, as the official image does.
set -eu

if [ "${1:-postgres}" != postgres ]; then exec "$@"; fi
[ $# -eq 0 ] || shift

if [ ! -s "$PGDATA/PG_VERSION" ]; then
  user=${POSTGRES_USER:-postgres}
  if [ -n "${POSTGRES_PASSWORD_FILE:-}" ]; then POSTGRES_PASSWORD=$(cat "$POSTGRES_PASSWORD_FILE"); fi
  : "${POSTGRES_PASSWORD:?is empty; a new database cluster needs a password}"
  # A first start that was cut off leaves no PG_VERSION in PGDATA, for the cluster is made beside it and moved in whole.
  new=$PGDATA.new
  rm -rf "$new"
  # initdb asks for the name of its user, whom the platform may have chosen (OpenShift).
  if ! whoami >/dev/null 2>&1; then
    NSS_WRAPPER_PASSWD=$(mktemp) NSS_WRAPPER_GROUP=$(mktemp)
    printf 'postgres:x:%s:%s::%s:/bin/sh\n' "$(id -u)" "$(id -g)" "$PGDATA" > "$NSS_WRAPPER_PASSWD"
    printf 'postgres:x:%s:\n' "$(id -g)" > "$NSS_WRAPPER_GROUP"
    LD_PRELOAD=libnss_wrapper.so
    export LD_PRELOAD NSS_WRAPPER_PASSWD NSS_WRAPPER_GROUP
  fi
  passwords=$(mktemp)
  printf '%s\n' "$POSTGRES_PASSWORD" > "$passwords"
  # shellcheck disable=SC2086  # several options may stand in POSTGRES_INITDB_ARGS
  initdb --pgdata="$new" --username="$user" --pwfile="$passwords" --auth-local=trust --auth-host=scram-sha-256 \
    --encoding=UTF8 ${POSTGRES_INITDB_ARGS:-}
  rm -f "$passwords"
  echo "host all all all scram-sha-256" >> "$new/pg_hba.conf"
  database=${POSTGRES_DB:-$user}
  if [ "$database" != postgres ]; then
    pg_ctl --pgdata="$new" --wait --silent --options="-c listen_addresses=" start
    createdb --username="$user" --maintenance-db=postgres "$database"
    pg_ctl --pgdata="$new" --wait --silent --mode=fast stop
  fi
  unset LD_PRELOAD
  rm -rf "$PGDATA"
  mv "$new" "$PGDATA"
fi

exec postgres -c "listen_addresses=*" "$@"
