#!/usr/bin/env bash
# Installs what is missing: distribution packages (as root or with sudo; else prints the one line to run)
# and the virtual environment .venv with pinned Python packages. Does nothing when nothing changed.
#   PYTHON=python3.12 scripts/setup.sh    chooses the interpreter (3.10 or later)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu
readonly STAMP=.venv/.shadowserve-setup
python=${PYTHON:-python3}

say() { echo "setup: $*"; }
fail() { echo "setup: $*" >&2; exit 1; }

fingerprint() {
  { cat scripts/setup.sh scripts/apt-packages.txt requirements/*.txt; "$python" -V; uname -m; } | sha256sum | cut -d' ' -f1
}

missing_packages() {
  local wanted present
  wanted=$(grep -v '^#' scripts/apt-packages.txt |
    awk -v here="[$(dpkg --print-architecture)]" 'NF == 1 || $2 == here { print $1 }' | sort)
  # shellcheck disable=SC2086
  present=$(dpkg-query -W -f='${db:Status-Abbrev}${binary:Package}\n' $wanted 2>/dev/null |
    sed -n 's/^ii *//p' | sed 's/:.*//' | sort)
  comm -23 <(echo "$wanted") <(echo "$present") | tr '\n' ' '
}

# Tests start Redis servers of their own. The package's service stays off, unless it was here before.
#   redis_service mask|off [sudo]    mask before the installation, off after it
redis_service() {
  [[ -d /run/systemd/system ]] || return 0
  if [[ $1 == mask ]]; then
    ${2:-} systemctl mask --quiet redis-server
  else
    ${2:-} systemctl unmask --quiet redis-server
    ${2:-} systemctl disable --quiet redis-server
  fi
}

install_packages() {
  command -v apt-get >/dev/null || fail "no apt-get here: install the packages of scripts/apt-packages.txt by hand"
  local missing command redis=""
  missing=$(missing_packages)
  [[ -z "${missing// /}" ]] && return
  [[ " $missing" == *" redis-server "* ]] && redis=new
  command="apt-get update && apt-get install -y --no-install-recommends $missing"
  if [[ $(id -u) == 0 ]]; then
    say "installing packages: $missing"
    [[ -z $redis ]] || redis_service mask
    apt-get update -qq || say "package lists were not updated, going on with those that are there"
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
    [[ -z $redis ]] || redis_service off
  elif sudo -n true 2>/dev/null; then
    say "installing packages with sudo: $missing"
    [[ -z $redis ]] || redis_service mask sudo
    sudo apt-get update -qq || say "package lists were not updated, going on with those that are there"
    # shellcheck disable=SC2086
    sudo DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
    [[ -z $redis ]] || redis_service off sudo
  else
    echo "setup: packages are missing, run this as root and start again:" >&2
    echo "$command" >&2
    exit 1
  fi
  missing=$(missing_packages)
  [[ -z "${missing// /}" ]] || fail "still missing: $missing"
}

# The default index serves builds of torch for CUDA, several GB with their dependencies. Asks what it
# would install without downloading it.
default_index_has_cpu_torch() {
  local report
  report=$(mktemp)
  .venv/bin/pip install -q --dry-run --ignore-installed --no-deps --report "$report" "$1" >/dev/null 2>&1 || return 1
  .venv/bin/python - "$report" <<'PYTHON'
import json, sys
item = json.load(open(sys.argv[1]))["install"][0]
needs = " ".join(item["metadata"].get("requires_dist", [])).lower()
cpu = "+cpu" in item["metadata"]["version"] or not ("nvidia" in needs or "cuda" in needs)
sys.exit(0 if cpu else 1)
PYTHON
}

is_cpu_torch() { .venv/bin/python -c 'import sys, torch; sys.exit(torch.version.cuda is not None)' 2>/dev/null; }

install_torch() {
  local torch
  torch=$(grep '^torch==' requirements/base.txt)
  if [[ $(.venv/bin/pip list --format=freeze 2>/dev/null | sed -n 's/^torch==\([^+]*\).*/torch==\1/p') == "$torch" ]] && is_cpu_torch; then
    return
  fi
  if default_index_has_cpu_torch "$torch"; then
    say "installing $torch"
    .venv/bin/pip install -q "$torch"
  else
    say "installing $torch for CPUs from $TORCH_CPU_INDEX"
    .venv/bin/pip install -q --index-url "$TORCH_CPU_INDEX" "$torch"
  fi
  is_cpu_torch || fail "the installed torch is no CPU build"
}

# True when every pinned package is there and none of those that must not be.
pins_are_met() {
  .venv/bin/python - requirements/*.txt <<'PYTHON'
import importlib.metadata as metadata, sys
installed = {d.metadata["Name"].lower().replace("_", "-"): d.version.split("+")[0] for d in metadata.distributions()}
pins = [line.strip().split("==") for file in sys.argv[1:] for line in open(file) if "==" in line]
met = all(installed.get(name.lower().replace("_", "-")) == version for name, version in pins)
sys.exit(0 if met and not {"torchvision", "torchaudio", "torchcodec"} & set(installed) else 1)
PYTHON
}

install_python() {
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || fail "$python is older than 3.10: set PYTHON"
  if [[ ! -x .venv/bin/python ]]; then
    say "creating .venv with $("$python" -V)"
    "$python" -m venv .venv
  fi
  export PIP_DISABLE_PIP_VERSION_CHECK=1
  if ! pins_are_met; then
    install_torch
    say "installing the Python packages (some minutes the first time)"
    .venv/bin/pip install -q -r requirements/base.txt -r requirements/dev.txt
    # They come as dependencies, built for CUDA, and break `import transformers` beside a CPU torch.
    .venv/bin/pip uninstall -q -y torchvision torchaudio torchcodec >/dev/null 2>&1 || true
  fi
  # The source tree is the installed package; the built extension is put into it (scripts/build.sh).
  echo "$PWD/python" >"$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/shadowserve-source.pth"
  .venv/bin/python -c 'import transformers, vllm' >/dev/null 2>&1 || fail "vLLM cannot be imported: .venv/bin/python -c 'import vllm' tells why"
}

main() {
  command -v "$python" >/dev/null || fail "no $python here: apt-get install python3 python3-venv"
  local now
  now=$(fingerprint)
  if [[ -f $STAMP && $(cat "$STAMP") == "$now $PWD" ]]; then
    say "up to date"
    return
  fi
  install_packages
  install_python
  echo "$now $PWD" >"$STAMP"
  say "done"
}

main "$@"
