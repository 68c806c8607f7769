# shellcheck shell=sh
# Puts one line into the user's crontab in place of those that run COMMAND; without LINE, only removes those.
#   crontab.sh COMMAND [LINE]
{
    crontab -l 2>/dev/null | grep -vF " $1 "
    if [ "${2:-}" ]; then printf '%s\n' "$2"; fi
} | crontab -
