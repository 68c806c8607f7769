# shellcheck shell=sh
# Runs a command and writes its output and its errors base64-encoded between markers, so that they arrive whole whatever is between the
# command and the engine: a terminal that merges both streams and rewrites line ends, a login banner, sudo's prompt.
#   frame.sh STDIN COMMAND [ARGUMENT...]
# STDIN is "none", "pipe" (this process' standard input) or the path of a file, which is removed before the command runs.
case $1 in
none) exec </dev/null ;;
pipe) ;;
*) exec <"$1" && rm -f "$1" 2>/dev/null ;;
esac
shift
exec 3>&1
echo "<mlops.mlflow output"
# The command has neither descriptor 3 nor the terminal. Its exit code is the last line of its errors.
errors=$({ { "$@" 3>&-; printf '\n%s' "$?" >&2; } | base64 >&3; } 2>&1 | base64)
printf '%s\n%s\n%s\n' "<mlops.mlflow errors" "$errors" "<mlops.mlflow end"
