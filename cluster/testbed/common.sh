# Shared by the scripts of the test bed: sourced, not run.
unset CDPATH  # with it cd prints where it went
TESTBED_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# State, logs and sockets of the bed. Two beds on one machine need two folders; sockets live there, so the path must be short.
BED=${SFT_TESTBED:-/run/sft-testbed}
SUBNET=10.77.0  # exists only inside the bed
MACHINES=(h1 h2 h3)

die() { printf 'cluster/testbed/%s: error: %s\n' "$(basename "$0")" "$1" >&2; exit "${2:-1}"; }

# usage FILE: its leading comment, without the interpreter line.
usage() { awk 'NR > 1 && !/^#/ {exit} NR > 1 {sub(/^# ?/, ""); print}' "$1"; }

# The process id of the bed's process 1 as seen from outside; fails where none is running.
bed_pid() {
  local pid
  pid=$(cat "$BED/pid" 2>/dev/null) && [ -n "$pid" ] || return 1
  # The number may by now belong to another process.
  tr '\0' '\n' <"/proc/$pid/cmdline" 2>/dev/null | grep -qxF "$TESTBED_DIR/inside/init" || return 1
  tr '\0' '\n' <"/proc/$pid/environ" 2>/dev/null | grep -qxF "SFT_TESTBED=$BED" || return 1
  echo "$pid"
}

# Ends the bed, if there is one, and removes its folder. The kernel takes down what lived in the namespaces: processes, mounts, links.
sweep() {
  local pid
  if pid=$(bed_pid); then
    kill -KILL "$pid"
    while kill -0 "$pid" 2>/dev/null && ! grep -q '^State:.Z' "/proc/$pid/status" 2>/dev/null; do sleep 0.02; done
  fi
  if [ -e "$BED/.sft-testbed" ]; then
    rm -rf --one-file-system "$BED"
  elif [ -d "$BED" ]; then
    rmdir "$BED" 2>/dev/null || die "$BED is not empty and no test bed made it: name another folder in SFT_TESTBED"
  fi
}

# on_machine NAME COMMAND...: inside the bed only.
on_machine() {
  local pid
  pid=$(cat "$BED/$1.machine" 2>/dev/null) && [ -d "/proc/$pid" ] || die "there is no host $1 (there are: ${MACHINES[*]}; or it is lost)"
  nsenter --target "$pid" --net --mount --uts --ipc -- "${@:2}"
}
