#!/usr/bin/env bash
# Builds with one preset and puts the Python extension into the source tree.
#   scripts/build.sh [PRESET] [TARGET...]     default: release, everything
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

preset=${1:-release}
shift || true
options=()
if [[ $preset == release ]]; then
  options+=(-DSS_BUILD_PYTHON=ON "-DPython_EXECUTABLE=$PWD/.venv/bin/python")
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! cmake --preset "$preset" "${options[@]}" >"$log" 2>&1; then
  cat "$log" >&2
  exit 1
fi
echo "build: $preset ${*:-everything}"
ninja -C "build/$preset" --quiet ${SS_JOBS:+-j "$SS_JOBS"} "$@"
if [[ $preset == release ]]; then
  extension=$(find build/release -name '_core*.so' -print -quit)
  if [[ -n $extension ]] && ! cmp -s "$extension" "python/shadowserve/$(basename "$extension")"; then
    # By rename: a running engine may have the old file mapped.
    cp "$extension" "python/shadowserve/.new-core"
    mv "python/shadowserve/.new-core" "python/shadowserve/$(basename "$extension")"
  fi
fi
