#!/bin/sh
# Makes the system tables, the database and its user when the data directory is empty, then becomes the server. Reads
# MARIADB_USER, MARIADB_PASSWORD, MARIADB_ROOT_PASSWORD and MARIADB_DATABASE, as the official image does.
set -eu

if [ "${1:-mariadbd}" != mariadbd ]; then exec "$@"; fi
[ $# -eq 0 ] || shift

data=/var/lib/mysql
for argument in "$@"; do
  case $argument in --datadir=*) data=${argument#--datadir=} ;; esac
done

# A text as a string of SQL.
quote() { printf "'%s'" "$(printf '%s' "$1" | sed -e 's/\\/\\\\/g' -e "s/'/''/g")"; }

if [ ! -d "$data/mysql" ]; then
  : "${MARIADB_ROOT_PASSWORD:?is empty; a new database needs one}" "${MARIADB_USER:?is empty}" "${MARIADB_PASSWORD:?is empty}"
  # A first start that was cut off leaves nothing in the data directory: the tables are made beside it and moved in whole.
  new=$data.new
  rm -rf "$new"
  mkdir -p "$new"
  mariadb-install-db --no-defaults --datadir="$new" --auth-root-authentication-method=normal --skip-test-db --skip-name-resolve >/dev/null
  # shellcheck disable=SC2016  # the backticks are SQL's
  database=$(printf '%s' "${MARIADB_DATABASE:-$MARIADB_USER}" | sed 's/`/``/g')
  mariadbd --no-defaults --datadir="$new" --bootstrap --skip-networking <<SQL
FLUSH PRIVILEGES;
DELETE FROM mysql.global_priv WHERE User = '';
ALTER USER root@localhost IDENTIFIED BY $(quote "$MARIADB_ROOT_PASSWORD");
CREATE DATABASE \`$database\` CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE USER $(quote "$MARIADB_USER")@'%' IDENTIFIED BY $(quote "$MARIADB_PASSWORD");
GRANT ALL ON \`$database\`.* TO $(quote "$MARIADB_USER")@'%';
FLUSH PRIVILEGES;
SQL
  rm -rf "$data"
  mv "$new" "$data"
fi

exec mariadbd --no-defaults --bind-address=0.0.0.0 --socket=/var/run/mysqld/mysqld.sock --pid-file=/var/run/mysqld/mysqld.pid --datadir="$data" "$@"
