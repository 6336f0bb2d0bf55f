#!/usr/bin/env bash
# Puts the target's libraries for the preset `aarch64` into build/aarch64-sysroot: this distribution's
# arm64 packages, unpacked. Nothing of the system changes (no foreign architecture, no root): apt works on
# lists and a package database of its own. Does nothing when nothing changed.
# Exit status 2, with the reason as last line, where the configured sources serve no arm64 (Ubuntu's does:
# add ports.ubuntu.com with `Architectures: arm64`).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly SYSROOT=$PWD/build/aarch64-sysroot
readonly WORK=$SYSROOT.work

unavailable() { echo "$*" >&2; exit 2; }

# The libraries that the C++ code is built with; the other packages of the list are used on this machine.
wanted=$(grep -e '-dev$' scripts/apt-packages.txt | grep -vE '^(python3|libclang|libnuma)')
stamp=$(sha256sum scripts/aarch64_sysroot.sh; echo "$wanted")
[[ -f $SYSROOT/.stamp && $(cat "$SYSROOT/.stamp") == "$stamp" ]] && exit 0
command -v apt-get >/dev/null || unavailable "no apt-get here"

rm -rf "$SYSROOT" "$WORK"
trap 'rm -rf "$WORK"' EXIT
mkdir -p "$WORK"/{state,lists/partial,cache/archives/partial} "$SYSROOT"/usr/{bin,lib,sbin}
touch "$WORK/status"
cat >"$WORK/apt.conf" <<CONF
APT::Architecture "arm64";
APT::Architectures { "arm64"; };
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Dir::State "$WORK/state";
Dir::State::lists "$WORK/lists";
Dir::State::status "$WORK/status";
Dir::Cache "$WORK/cache";
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
CONF
# A source without arm64 is an error to apt; what counts is whether the packages are found.
apt-get -c "$WORK/apt.conf" update -qq >/dev/null 2>&1 || true
# shellcheck disable=SC2086
apt-get -c "$WORK/apt.conf" install -qq -y --download-only libc6-dev $wanted >/dev/null 2>"$WORK/error" ||
  unavailable "no arm64 packages from the configured apt sources: $(grep -m1 '^E:' "$WORK/error")"

ln -s usr/bin usr/lib usr/sbin "$SYSROOT"
for package in "$WORK"/cache/archives/*.deb; do
  dpkg-deb --fsys-tarfile "$package" | tar -x -C "$SYSROOT" --no-same-owner --keep-directory-symlink
done
# Absolute links would lead out of the sysroot.
find "$SYSROOT/usr/lib" -type l -lname '/*' -printf '%p\t%l\n' | while IFS=$'\t' read -r link target; do
  ln -sfr "$SYSROOT$target" "$link"
done
echo "$stamp" >"$SYSROOT/.stamp"
