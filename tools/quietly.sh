#!/usr/bin/env bash
# tools/quietly.sh WHAT COMMAND...: says WHAT on stderr, and what COMMAND prints only if it fails.
set -uo pipefail

echo "== $1" >&2
shift
log=$(mktemp) || exit
trap 'rm -f "$log"' EXIT
"$@" >"$log" 2>&1 || { status=$?; cat "$log" >&2; exit "$status"; }
