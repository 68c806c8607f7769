# shellcheck shell=sh
# Gives each pod of a namespace an address of its own that stays, and writes names and addresses to the pods' /etc/hosts files.
#   network.sh FOLDER NAMESPACE
# Standard input has a line for each pod that is wanted, "pod WORKLOAD HOSTNAME NAME..."; one for each workload of which only the
# pods named here remain, "workload WORKLOAD"; and one for each further name of a pod, "alias HOSTNAME ADDRESS NAME". All fields are
# without blanks. Standard output is the new file of addresses, a line "ADDRESS WORKLOAD HOSTNAME NAME..." for each pod.
#
# Pods do not ask aardvark-dns for these names: whenever any container starts or stops it closes its port for a moment and reads its
# configuration anew, and who asks then waits for seconds or is sent on to a name server that does not know the name.
set -e
folder=$1 namespace=$2 label=mlops.mlflow
mkdir -p "$folder/hosts"
# Instances may share a namespace, and Ansible changes several at once.
exec 9>"$folder/.lock"
flock -w 60 9
podman network exists "$namespace" 9>&- || podman network create --label "$label/namespace=$namespace" "$namespace" >/dev/null 9>&-
subnet=$(podman network inspect --format '{{range .Subnets}}{{.Subnet}} {{.Gateway}}{{"\n"}}{{end}}' "$namespace" 9>&- | grep -m 1 '\.')
gateway=${subnet#* } subnet=${subnet% *}
# The machine itself, as podman has it in a hosts file: root's pods see it at their gateway, a user's at its outward address or,
# from podman 5.3 on, at pasta's.
machine=$gateway
if [ "$(id -u)" != 0 ]; then
    machine=$(ip -4 route get 192.0.2.1 2>/dev/null | sed -n 's/.* src \([0-9.]*\).*/\1/p' | head -n 1)
    case $(podman version --format '{{.Client.Version}}' 9>&-) in
    4.* | 5.[0-2].*) ;;
    *) machine=169.254.1.2 ;;
    esac
fi

# write FILE: takes over standard input without a moment at which the file is short: it is mounted into running pods and read there.
write() {
    cat >"$folder/.new"
    if ! cmp -s "$folder/.new" "$1" 2>/dev/null; then
        before=$(wc -c 2>/dev/null <"$1" || echo 0) after=$(wc -c <"$folder/.new")
        # What was longer ends in blank lines.
        while [ "$after" -lt "$before" ]; do echo; after=$((after + 1)); done >>"$folder/.new"
        dd if="$folder/.new" of="$1" bs=1M conv=notrunc status=none
        chmod 644 "$1"
    fi
    rm -f "$folder/.new"
}

touch "$folder/addresses"
wanted=$(cat)
addresses=$(printf '%s\n' "$wanted" | awk -v subnet="$subnet" '
    function number(address,    part) { split(address, part, "."); return ((part[1] * 256 + part[2]) * 256 + part[3]) * 256 + part[4] }
    function dotted(n) { return int(n / 16777216) "." int(n / 65536) % 256 "." int(n / 256) % 256 "." n % 256 }
    NR == FNR {
        if ($1 == "workload") known[$2] = 1
        if ($1 == "pod") {
            known[$2] = 1; names = ""
            for (i = 4; i <= NF; i++) names = names " " $i
            line[$3] = $2 " " $3 names; order[++count] = $3
        }
        next
    }
    NF && !($2 in known) { taken[$1] = 1; print; next }
    NF && ($3 in line) && !($3 in address) { taken[$1] = 1; address[$3] = $1; print $1 " " line[$3] }
    END {
        # From the end of the subnet: podman itself gives addresses from its beginning.
        split(subnet, part, "/")
        n = number(part[1]); last = n - n % (2 ^ (32 - part[2])) + 2 ^ (32 - part[2]) - 2
        for (i = 1; i <= count; i++) {
            if (order[i] in address) continue
            while (dotted(last) in taken) last--
            address[order[i]] = dotted(last--)
            print address[order[i]] " " line[order[i]]
        }
    }' - "$folder/addresses")
printf '%s\n' "$addresses" | write "$folder/addresses"

shared=$(printf '%s\n' "$addresses" | awk 'NF { line = $1; for (i = 3; i <= NF; i++) line = line " " $i; print line }')
for hostname in $(printf '%s\n' "$wanted" | awk '$1 == "pod" { print $3 }'); do
    {
        printf '127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n'
        if [ "$machine" ]; then echo "$machine host.containers.internal host.docker.internal"; fi
        printf '%s\n' "$wanted" | awk -v hostname="$hostname" '$1 == "alias" && $2 == hostname { print $3 " " $4 }'
        echo "# Pods of $namespace"
    } >"$folder/hosts/$hostname.head"
done
for head in "$folder"/hosts/*.head; do
    hostname=${head##*/} hostname=${hostname%.head}
    if printf '%s\n' "$addresses" | awk -v hostname="$hostname" '$3 == hostname { found = 1 } END { exit !found }'; then
        { cat "$head"; printf '%s\n' "$shared"; } | write "$folder/hosts/$hostname"
    else
        rm -f "$head" "$folder/hosts/$hostname"
    fi
done
cat "$folder/addresses"
