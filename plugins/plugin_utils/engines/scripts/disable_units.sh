# shellcheck shell=sh
# Stops, disables and removes systemd units, given as paths.
#   disable_units.sh system|user PATH...
manager=--$1
shift
export XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-/run/user/$(id -u)}"
for unit; do
    [ -e "$unit" ] || continue
    case $unit in *.timer) systemctl "$manager" --quiet stop "${unit##*/}" ;; esac
    case $unit in *@* | *-*.service | *.timer) systemctl "$manager" --quiet disable "${unit##*/}" 2>/dev/null ;; esac
    rm -f "$unit"
done
systemctl "$manager" daemon-reload
true
