#!/bin/sh
# The programs of the database's own image, beside backup.py of the same pod.
#   database.sh dump      write the database's dump to the pipe that backup.py reads
#   database.sh restore   load what backup.py writes to the pipe into a database
#   database.sh drill     the same into a new server on 127.0.0.1, which runs until backup.py has ended
#   database.sh recover   run a server there with the database as of MOMENT, from its base backups and archived WAL
# Several of them are done one after the other. Both containers share the folder EXCHANGE. For each program backup.py
# makes a folder there, called 1, 2 and so on, with a pipe, and with variables in database.env; this script answers with
# `status` and `errors`. DATABASE_USER and DATABASE_PASSWORD are the login, DRILL the folder of the new server.
set -eu
exchange=${EXCHANGE:-/exchange}
drill=${DRILL:-/drill}
owner=${DATABASE_USER:-}
number=0
umask 000
servers=
# Throw-away servers end at once; nobody keeps their data.
# shellcheck disable=SC2086  # several numbers
trap '[ -z "$servers" ] || kill -QUIT $servers 2>/dev/null || true; wait; touch "$exchange/database-ended"' EXIT

# Wait for a file of backup.py; end when that has ended or is gone.
await() {
    begun=$(date +%s)
    while [ ! -e "$exchange/$1" ]; do
        if [ -e "$exchange/ended" ]; then exit 0; fi
        if [ $(($(date +%s) - begun)) -gt 300 ] && [ -z "$(find "$exchange" -maxdepth 1 -name alive -mmin -2)" ]; then
            echo "database.sh: backup.py does not run any more" >&2
            exit 1
        fi
        sleep 0.2
    done
}

dump() {
    case $DIALECT in
        postgresql)
            PGUSER=$DATABASE_USER PGPASSWORD=$DATABASE_PASSWORD pg_dump --format=custom --compress=1 --no-owner \
                --no-privileges --lock-wait-timeout=60s ${SNAPSHOT:+--snapshot="$SNAPSHOT"}
            ;;
        mysql)
            client=$(command -v mariadb-dump || command -v mysqldump)
            MYSQL_PWD=$DATABASE_PASSWORD "$client" --defaults-file="$folder/client.cnf" --user="$DATABASE_USER" \
                --single-transaction --quick --no-tablespaces --hex-blob --default-character-set=utf8mb4 "$DATABASE"
            ;;
    esac
}

load() {
    case $DIALECT in
        postgresql)
            PGUSER=$DATABASE_USER PGPASSWORD=$DATABASE_PASSWORD pg_restore --no-owner --no-privileges --exit-on-error \
                --dbname="$DATABASE"
            ;;
        mysql)
            client=$(command -v mariadb || command -v mysql)
            MYSQL_PWD=$DATABASE_PASSWORD "$client" --defaults-file="$folder/client.cnf" --user="$DATABASE_USER" \
                --default-character-set=utf8mb4 "$DATABASE"
            ;;
    esac
}

# A server of its own, with the entrypoint of the image, whose data nobody keeps.
serve() {
    entrypoint=$(command -v docker-entrypoint.sh || echo /usr/local/bin/docker-entrypoint.sh)
    [ -x "$entrypoint" ] || entrypoint="sh $entrypoint"
    case $DIALECT in
        postgresql)
            export POSTGRES_USER="$DATABASE_USER" POSTGRES_PASSWORD="$DATABASE_PASSWORD" POSTGRES_DB="$DATABASE"
            export PGDATA="$drill/data"
            # Its own client connects to the socket.
            # shellcheck disable=SC2086  # two words where the file is not executable
            env -u PGHOST -u PGDATABASE $entrypoint postgres -c port="$PGPORT" -c fsync=off \
                -c full_page_writes=off -c max_wal_size=4GB >"$folder/server.log" 2>&1 &
            ready() {
                PGUSER=$DATABASE_USER PGPASSWORD=$DATABASE_PASSWORD psql --quiet --command="SELECT 1" >/dev/null 2>&1
            }
            ;;
        mysql)
            for product in MARIADB MYSQL; do
                export "${product}_USER=$DATABASE_USER" "${product}_PASSWORD=$DATABASE_PASSWORD" \
                    "${product}_ROOT_PASSWORD=$DATABASE_PASSWORD" "${product}_DATABASE=$DATABASE"
            done
            # shellcheck disable=SC2086
            $entrypoint "$(basename "$(command -v mariadbd || command -v mysqld)")" --datadir="$drill/data" \
                --socket="$drill/socket" --pid-file="$drill/pid" --port="$PORT" --character-set-server=utf8mb4 --collation-server=utf8mb4_bin --skip-name-resolve \
                >"$folder/server.log" 2>&1 &
            ready() { echo "SELECT 1" | load >/dev/null 2>&1; }
            ;;
    esac
    server=$!
    servers="$servers $server"
    left=300
    until ready; do
        if ! kill -0 "$server" 2>/dev/null || [ "$left" -le 0 ]; then
            tail -n 5 "$folder/server.log" >"$folder/errors"
            return 1
        fi
        left=$((left - 1))
        sleep 1
    done
}

# Options of pgBackRest are in the environment. WAL is replayed for as long as it takes; backup.py's pod has a deadline.
recover() {
    if ! pgbackrest --pg1-path="$drill/recovered" --type=time --target="$MOMENT" --target-action=promote restore \
        >"$folder/server.log" 2>&1; then
        earliest=$(pgbackrest info 2>/dev/null | sed -n 's|.*timestamp start/stop: .* / ||p' | head -n 1)
        grep ERROR "$folder/server.log" | sed "s|\$|; the earliest moment is ${earliest:-not known} UTC|" >"$folder/errors"
        return 1
    fi
    # Without hot standby, limits may be others than those of the server that wrote the WAL.
    postgres -D "$drill/recovered" -c port="$PGPORT" -c listen_addresses=127.0.0.1 -c archive_mode=off \
        -c unix_socket_directories="$drill" -c hot_standby=off -c fsync=off -c full_page_writes=off >"$folder/server.log" 2>&1 &
    server=$!
    servers="$servers $server"
    # By its socket, over which no password is asked for.
    until env -u PGOPTIONS psql --quiet --host="$drill" --username="$owner" --dbname=postgres >/dev/null 2>&1 \
        --command="CREATE ROLE \"$DATABASE_USER\" SUPERUSER LOGIN PASSWORD '$DATABASE_PASSWORD'"; do
        if ! kill -0 "$server" 2>/dev/null; then
            grep -h FATAL "$folder/server.log" | tail -n 1 >"$folder/errors"
            return 1
        fi
        sleep 1
    done
}

for mode in "$@"; do
    number=$((number + 1))
    folder=$exchange/$number
    await "$number/database.env"
    # shellcheck source=/dev/null
    . "$folder/database.env"
    code=0
    case $mode in
        dump) dump >"$folder/pipe" 2>"$folder/errors" || code=$? ;;
        restore) load <"$folder/pipe" >/dev/null 2>"$folder/errors" || code=$? ;;
        recover) recover || code=$? ;;
        drill)
            serve || code=$?
            [ "$code" != 0 ] || load <"$folder/pipe" >/dev/null 2>"$folder/errors" || code=$?
            ;;
    esac
    # backup.py reports the failure, with what is in `errors`.
    echo "$code" >"$folder/status.part"
    mv "$folder/status.part" "$folder/status"
    [ "$code" = 0 ] || exit 0
    unset SNAPSHOT
done
await ended
