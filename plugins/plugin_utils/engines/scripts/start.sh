# shellcheck shell=sh
# Starts the pods that the podman engine of mlops.mlflow runs in the namespace of this file's folder, as after a reboot: all at
# once, since some wait for others.
# cron and systemd give a short PATH, and cron no XDG_RUNTIME_DIR, without which a user's podman looks elsewhere for its pods.
export PATH="$PATH:/usr/sbin:/sbin"
if [ -z "${XDG_RUNTIME_DIR:-}" ] && [ -d "/run/user/$(id -u)" ]; then XDG_RUNTIME_DIR=/run/user/$(id -u); export XDG_RUNTIME_DIR; fi
folder=$(cd "$(dirname "$0")" && pwd) && namespace=${folder##*/}
[ -e "$folder/../containers.conf" ] && export CONTAINERS_CONF="$folder/../containers.conf"
for pod in $(podman ps --all --filter "label=mlops.mlflow/namespace=$namespace" --filter label=mlops.mlflow/role=main \
    --filter restart-policy=always --format '{{.Pod}}' | sort -u); do
    podman pod start "$pod" &
done
wait
