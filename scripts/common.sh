# shellcheck shell=bash
# Shared by the scripts in this folder: where the repository is, how progress and durations are told.
# Sourced, never run.

repo_root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
export repo_root

if [[ -t 1 ]]; then
  bold=$'\033[1m' dim=$'\033[2m' red=$'\033[31m' plain=$'\033[0m'
else
  bold='' dim='' red='' plain=''
fi

# The step that begins now, in bold.
step() { printf '%s==> %s%s\n' "${bold}" "$*" "${plain}"; }

# A detail of the current step.
note() { printf '%s    %s%s\n' "${dim}" "$*" "${plain}"; }

fail() {
  printf '%s%s: %s%s\n' "${red}" "$(basename "$0")" "$*" "${plain}" >&2
  exit 1
}

# Milliseconds since the epoch; only differences are used.
now_ms() { date +%s%3N; }

# "850 ms", "12.3 s" or "4 min 07 s" since the given now_ms value.
took() {
  local ms=$(($(now_ms) - $1))
  if ((ms < 1000)); then
    printf '%d ms' "${ms}"
  elif ((ms < 60000)); then
    printf '%d.%d s' $((ms / 1000)) $((ms % 1000 / 100))
  else
    printf '%d min %02d s' $((ms / 60000)) $((ms % 60000 / 1000))
  fi
}
