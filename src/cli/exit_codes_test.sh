#!/bin/sh
# Runs the shadowctl binary and checks exit codes and that errors are one line on standard error.
# usage: exit_codes_test.sh path/to/shadowctl
set -u
shadowctl=$1
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
failures=0

# expect CODE TEXT ARGUMENTS...: TEXT must be in the one line on standard error ("" for code 0).
expect() {
  code=$1
  text=$2
  shift 2
  "$shadowctl" "$@" >"$directory/out" 2>"$directory/err"
  actual=$?
  lines=$(wc -l <"$directory/err")
  if [ "$actual" -ne "$code" ]; then
    echo "shadowctl $*: exit code $actual, expected $code"
    failures=$((failures + 1))
  elif [ "$code" -eq 0 ] && [ "$lines" -ne 0 ]; then
    echo "shadowctl $*: wrote to standard error: $(cat "$directory/err")"
    failures=$((failures + 1))
  elif [ "$code" -ne 0 ] && { [ "$lines" -ne 1 ] || ! grep -qF -- "$text" "$directory/err"; }; then
    echo "shadowctl $*: expected one line with '$text', got: $(cat "$directory/err")"
    failures=$((failures + 1))
  fi
}

expect 0 "" --help
expect 0 "" evict --help
expect 0 "" --version
expect 0 "" bench --help
expect 0 "" bench pipeline --help
expect 2 "status, lookup, verify, evict, trace or bench"
expect 2 "pipeline, stages, codec or store" bench
expect 2 "--colour" bench pipeline --colour
expect 2 "fast" bench pipeline --profile fast
expect 2 "--store" bench pipeline --store nonsense
expect 2 "--cores" bench pipeline --cores 1,,2
expect 2 "--colour" status --colour
expect 2 "frobnicate" frobnicate
expect 2 "yaml" status --format yaml
expect 2 "nonsense" --connect nonsense status
expect 2 "evict" evict
expect 2 "exclude" evict --all 0000000000000000000000000000000000000000000000000000000000000000
expect 2 "12ab" lookup 12ab
expect 3 "$directory/none.sock" --connect "unix://$directory/none.sock" status
expect 3 "$directory/none.sock" verify --connect "unix://$directory/none.sock"
expect 3 "$directory/none.sock" lookup --format json --connect "unix://$directory/none.sock"
expect 2 "--seconds" trace --seconds 61
expect 3 "$directory/none.sock" trace --connect "unix://$directory/none.sock"
expect 3 "$directory/none.sock" evict --all --connect "unix://$directory/none.sock"

[ "$failures" -eq 0 ] && echo "all exit codes as documented"
exit "$failures"
