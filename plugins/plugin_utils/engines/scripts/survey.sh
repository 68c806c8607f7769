# shellcheck shell=sh
# Everything that a run needs to know, at once: each command costs a start of podman, and over SSH a round trip.
#   survey.sh NAMESPACE
# Answers come in sections: the character 036, a name, a line feed, the body.
if [ "$(id -u)" = 0 ]; then
    state=/var/lib/mlops.mlflow units=/etc/systemd/system
else
    state=${XDG_DATA_HOME:-$HOME/.local/share}/mlops.mlflow units=${XDG_CONFIG_HOME:-$HOME/.config}/systemd/user
fi
folder=$state/$1 unit=$units/mlops-mlflow-$1.service
section() { printf '\036%s\n' "$1"; }

# Where netavark finds iptables; an ordinary user's PATH lacks it.
case :$PATH: in *:/usr/sbin:*) ;; *) PATH=$PATH:/usr/sbin:/sbin ;; esac
export PATH
section state; echo "$state"
section path; echo "$PATH"
# Where podman's defaults ask for more than this machine allows, a containers.conf of the engine's own lowers them, for its calls only.
conf=$state/containers.conf
files=$(awk '/^Max open files/{print $5}' /proc/self/limits)
if [ ! -e "$conf" ] && [ "$(id -u)" = 0 ] && [ "$files" != unlimited ] && [ "$files" -lt 1048576 ]; then
    mkdir -p "$state" && {
        printf '[containers]\ndefault_ulimits = ["nofile=%s:%s", "nproc=4096:4096"]\n' "$files" "$files"
        # crun cannot set up containers on hybrid cgroups (v1 controllers beside an empty v2 tree); runc can.
        if [ -d /sys/fs/cgroup/unified ] && command -v runc >/dev/null; then printf '[engine]\nruntime = "runc"\n'; fi
    } >"$conf"
fi
[ -e "$conf" ] && export CONTAINERS_CONF="$conf"
section conf; [ -e "$conf" ] && echo "$conf"

# Warnings are no part of the answer.
info=$(podman info --format json 2>/dev/null) || info=$(podman info --format json 2>&1)
root=$(printf '%s\n' "$info" | sed -n 's/^ *"graphRoot": "\(.*\)",$/\1/p')
section info; printf '%s\n' "$info"
section objects; cat "$folder"/objects/*.json 2>/dev/null
section containers; podman ps -a --no-trunc --format json
section processes; (cd /proc 2>/dev/null && echo [0-9]*)
section volumes; podman volume ls --format json
section secrets; podman secret ls --format '{{.ID}} {{.Name}}'
section values; cat "$root/secrets/filedriver/secretsdata.json" 2>/dev/null
section addresses; cat "$folder/addresses" 2>/dev/null

# Packages that podman needs for pods, and that Debian only recommends.
section missing
have() { for file; do [ -x "$file" ] || command -v "$file" >/dev/null 2>&1 || continue; return 0; done; return 1; }
have /usr/lib/podman/netavark /usr/libexec/podman/netavark || echo netavark
have /usr/lib/podman/aardvark-dns /usr/libexec/podman/aardvark-dns || echo aardvark-dns
have catatonit /usr/libexec/podman/catatonit || echo catatonit
have iptables nft || echo iptables
[ "$(id -u)" = 0 ] || have newuidmap || echo uidmap
[ "$(id -u)" = 0 ] || have slirp4netns pasta || echo slirp4netns

# A user's own systemd is there while somebody is logged in as that user, or for good where the user lingers.
section systemd
if [ -d /run/systemd/system ]; then
    if [ "$(id -u)" = 0 ] || [ -S "${XDG_RUNTIME_DIR:-/run/user/$(id -u)}/systemd/private" ]; then echo "$unit"; fi
fi
section user; id -un
section uid; id -u
section boot; cat /proc/sys/kernel/random/boot_id 2>/dev/null
section lingers; [ -e "/var/lib/systemd/linger/$(id -un)" ] && echo yes
section lowest; cat /proc/sys/net/ipv4/ip_unprivileged_port_start 2>/dev/null
section start; cat "$folder/start" 2>/dev/null
section unit; cat "$unit" 2>/dev/null
section disk; df -Pk "$root" | tail -n 1

# What runs on a schedule: name, digest of its files, and whether something starts it.
section cronjobs
crontab=$(crontab -l 2>/dev/null)
for job in "$folder"/cronjobs/*/; do
    [ -e "$job/run" ] || continue
    job=${job%/} name=${job##*/} timer=${unit%.service}-${job##*/}.timer
    if [ -e "$timer" ] || printf '%s\n' "$crontab" | grep -qF "$job/run"; then installed=yes; else installed=no; fi
    echo "$name $(cat "$job/run" "$job/schedule" 2>/dev/null | sha256sum | cut -d' ' -f1) $installed"
done
section cron; command -v crontab; grep -qxs -e cron -e crond /proc/[0-9]*/comm && echo daemon
true
