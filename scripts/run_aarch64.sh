#!/usr/bin/env bash
# Runs a program of the preset `aarch64` on this machine, under qemu:
#   scripts/run_aarch64.sh build/aarch64/bin/quant_test [ARGUMENT...]
# QEMU_CPU chooses the core; by default BlueField-2's, the oldest of interest: no SVE, and none of the
# half-precision and dot-product instructions that BlueField-3's Cortex-A78 has.
set -euo pipefail
export QEMU_CPU=${QEMU_CPU:-cortex-a72}
exec qemu-aarch64 -L "$(dirname "${BASH_SOURCE[0]}")/../build/aarch64-sysroot" "$@"
