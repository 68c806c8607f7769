#!/bin/sh
# Base backups of a PostgreSQL that archives its WAL, in a second container of its pod: one at the start and one a day,
# all of them once a week and otherwise what has changed. Reads pgBackRest's options and PGUSER from the environment.
set -eu
command -v pgbackrest >/dev/null || { echo "database_archive is true, and this image has no pgBackRest" >&2; exit 1; }
trap 'exit 0' TERM INT

# In the background, since the trap waits for what runs in the foreground.
run() { "$@" & wait $!; }

# Over TCP, since only the socket answers while the image prepares a new data directory.
until pg_isready --quiet --host=127.0.0.1 --port="$PGBACKREST_PG1_PORT" --dbname=postgres; do run sleep 2; done
# For the exporter, another user, who looks at the time of last-backup; the folders below stay closed.
chmod o+x "$PGBACKREST_REPO1_PATH"
# The second for a volume of a database that was lost and made anew.
run pgbackrest stanza-create || run pgbackrest stanza-upgrade

full=$PGBACKREST_REPO1_PATH/last-full-backup
last=$PGBACKREST_REPO1_PATH/last-backup
# WAL of the time before this start may be missing, so that a new one is made.
made=
while :; do
    kind=incr
    [ -n "$(find "$full" -mmin -10080 2>/dev/null)" ] || kind=full
    if [ -n "$made" ] && [ -n "$(find "$last" -mmin -1440 2>/dev/null)" ]; then
        run sleep 60
    elif run pgbackrest --type="$kind" backup; then
        touch "$last"
        made=true
        [ "$kind" = incr ] || touch "$full"
        echo "$(date -u +%Y-%m-%dT%H:%M:%SZ) base backup ($kind) made"
    else
        echo "$(date -u +%Y-%m-%dT%H:%M:%SZ) the base backup failed; it is tried again in 5 minutes" >&2
        run sleep 300
    fi
done
