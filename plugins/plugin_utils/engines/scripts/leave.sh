# shellcheck shell=sh
# Removes a namespace's network and its start at boot when no container is left, and its folder when nothing is remembered.
#   leave.sh NAMESPACE FOLDER UNIT system|user      (UNIT is empty where no systemd runs)
namespace=$1 folder=$2 unit=$3 manager=--$4
export XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-/run/user/$(id -u)}"
if podman network exists "$namespace" && [ -z "$(podman ps -aq --filter "network=$namespace")" ] &&
    [ "$(podman network inspect "$namespace" --format '{{index .Labels "mlops.mlflow/namespace"}}')" = "$namespace" ]; then
    podman network rm "$namespace" >/dev/null && rm -rf "$folder/hosts" "$folder/addresses" "$folder/.lock"
fi
if [ -z "$(podman ps -aq --filter "label=mlops.mlflow/namespace=$namespace")" ]; then
    rm -f "$folder/start"
    if [ "$unit" ] && [ -e "$unit" ]; then
        systemctl "$manager" --quiet disable "${unit##*/}"
        rm -f "$unit"
        systemctl "$manager" daemon-reload
    fi
fi
rmdir "$folder/objects" "$folder/configmaps" "$folder/scratch" "$folder/cronjobs" "$folder" 2>/dev/null
true
