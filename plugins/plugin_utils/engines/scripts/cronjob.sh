# shellcheck shell=sh disable=SC2154
# Runs a CronJob of the podman engine of mlops.mlflow once: a pod with the time in its name. A run whose predecessor has not ended is
# left out (concurrencyPolicy: Forbid).
#   run [due ZONE]
# With "due", only when the schedule has the current minute in time zone ZONE: for cron, which knows the machine's zone alone.
# The engine writes the variables and the functions is_due and create_pod above this.
if [ "${1:-}" = due ] && ! is_due "$(TZ=$2 date '+%-M %-H %-d %-m %w')"; then exit 0; fi
# cron and systemd give a short PATH, and cron no XDG_RUNTIME_DIR, without which a user's podman looks elsewhere for its pods.
export PATH="$PATH:/usr/sbin:/sbin"
if [ -z "${XDG_RUNTIME_DIR:-}" ] && [ -d "/run/user/$(id -u)" ]; then XDG_RUNTIME_DIR=/run/user/$(id -u); export XDG_RUNTIME_DIR; fi
folder=$(cd "$(dirname "$0")" && pwd)
state=$folder/../../..
[ -e "$state/containers.conf" ] && export CONTAINERS_CONF="$state/containers.conf"
exec 9>"$folder/.lock"
flock -n 9 || { echo "$workload: the last run has not ended, so this one is left out" >&2; exit 0; }
pod=$name-$(date -u +%Y%m%d%H%M%S)

# main: the pod's containers that are no init containers, with their exit codes.
main() {
    podman ps --all --filter "label=mlops.mlflow/workload=$workload" --filter "label=mlops.mlflow/namespace=$namespace" \
        --filter label=mlops.mlflow/role=main --format '{{index .Labels "mlops.mlflow/pod"}} {{.ExitCode}} {{.Names}}'
}

run() {
    create_pod "$pod" >/dev/null || return 1
    podman pod start "$pod" >/dev/null || return 1
    left=$backoff_limit
    for container in $(main | awk -v pod="$pod" '$1 == pod { print $3 }'); do
        while code=$(podman wait "$container") && [ "$code" != 0 ]; do
            if [ "$left" -le 0 ]; then return "$code"; fi
            left=$((left - 1))
            sleep 10
            podman start "$container" >/dev/null || return 1
        done
    done
}

remove() {
    podman pod rm --force "$1" >/dev/null 2>&1
    rm -rf "${state:?}/$namespace/scratch/$1" 2>/dev/null || podman unshare rm -rf "$state/$namespace/scratch/$1"
}

{
    run
    code=$?
    # The pod's address is free for the next run; its log stays.
    podman pod stop "$pod" >/dev/null 2>&1
    main | sort -r | awk -v succeeded="$succeeded_limit" -v failed="$failed_limit" '
        { if (!($1 in code)) order[++count] = $1; if ($2 != 0 || !($1 in code)) code[$1] = $2 }
        END { for (i = 1; i <= count; i++) if (code[order[i]] ? ++bad > failed : ++good > succeeded) print order[i] }' |
        while read -r old; do remove "$old" </dev/null; done
} 9>&-
exit "$code"
