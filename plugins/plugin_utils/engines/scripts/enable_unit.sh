# shellcheck shell=sh
# Unpacks systemd units from a base64 tar archive on standard input into FOLDER and enables UNIT; with "now", starts it as well.
#   enable_unit.sh FOLDER UNIT system|user [now]
set -e
manager=--$3
# Without a login of its own a process is not told where its user's systemd is.
export XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-/run/user/$(id -u)}"
mkdir -p "$1"
base64 -d | tar -xo --no-same-owner -C "$1" -f -
systemctl "$manager" daemon-reload
systemctl "$manager" --quiet enable "$2"
if [ "${4:-}" = now ]; then systemctl "$manager" restart "$2"; fi
