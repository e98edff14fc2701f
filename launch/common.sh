# Shared by the scripts in launch/ and tests/: sourced, not run. Sets ROOT, the folder of this clone.
unset CDPATH  # with it cd prints where it went
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=${SFT_VENV:-$ROOT/.venv}
VENV=${VENV%/}
VENV_PYTHON=$VENV/bin/python

# A clone in another folder still finds its objects in the compiler cache.
export CCACHE_BASEDIR=${CCACHE_BASEDIR:-$ROOT} CCACHE_NOHASHDIR=1

note() { printf '    %s\n' "$*"; }
die() { printf '%s: error: %s\n' "$(basename "$0")" "$1" >&2; exit "${2:-1}"; }

# The program: $SFT_DIST, else built in this clone, else installed with this script, else on PATH.
find_sft_dist() {
  local program
  if [ -n "${SFT_DIST:-}" ]; then
    [ -x "$SFT_DIST" ] || die "SFT_DIST names $SFT_DIST, which is not a program" 92
    realpath -s "$SFT_DIST"
    return
  fi
  for program in "$ROOT/build/release/sft-dist" "$ROOT/../../bin/sft-dist" "$(command -v sft-dist || echo '')"; do
    if [ -n "$program" ] && [ -x "$program" ]; then
      realpath -s "$program"
      return
    fi
  done
  die "sft-dist is not built: cmake --preset release && cmake --build --preset release" 92
}

# usage FILE: its leading comment, without the interpreter line.
usage() { awk 'NR > 1 && !/^#/ {exit} NR > 1 {sub(/^# ?/, ""); print}' "$1"; }

# step TITLE [REMEDY]: begins a step; the step before is closed with its duration. A failure names the step and its remedy.
STEP_TITLE='' STEP_REMEDY='' STEP_START=0
step() {
  end_step
  STEP_TITLE=$1 STEP_REMEDY=${2:-} STEP_START=$SECONDS
  printf '\n==> %s\n' "$STEP_TITLE"
}
end_step() {
  [ -z "$STEP_TITLE" ] || note "done in $((SECONDS - STEP_START)) s"
  STEP_TITLE=''
}
on_exit() {
  local code=$?
  [ "$code" = 0 ] || [ -z "$STEP_TITLE" ] || {
    printf '\n==> FAILED after %d s: %s (exit code %d)\n' $((SECONDS - STEP_START)) "$STEP_TITLE" "$code" >&2
    [ -z "$STEP_REMEDY" ] || printf '    What to do: %s\n' "$STEP_REMEDY" >&2
  }
}
