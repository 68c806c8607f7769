# shellcheck shell=sh
# Removes pods with their folders below SCRATCH, and names those that are still there.
#   remove_pods.sh SCRATCH POD...
scratch=$1
shift
for pod; do
    podman pod stop "$pod" >/dev/null 2>&1
    podman pod rm --force "$pod" >/dev/null 2>&1
    rm -rf "${scratch:?}/$pod" 2>/dev/null || podman unshare rm -rf "$scratch/$pod"
    podman pod exists "$pod" && echo "$pod"
done
true
