#!/usr/bin/env bash
# Where the service's processor time goes: runs a workload of `equipoise bench run` against a service of its own under perf, and
# prints the microseconds an operation by layer and thread.
#   scripts/profile.sh [WORKLOAD] [option of bench run ...]    (default: batch)
#   EQUIPOISE=path scripts/profile.sh ...                      profiles that program instead of building one
# Needs Linux's perf, and the right to use it (root, or kernel.perf_event_paranoid at most 1).
source "$(dirname "$0")/common.sh"

[ $# -gt 0 ] || set -- batch
command -v perf >/dev/null || fail "needs perf (Debian: linux-perf)"
if [ -z "${EQUIPOISE:-}" ]; then
    cargo build --locked --release
    EQUIPOISE="${CARGO_TARGET_DIR:-target}/release/equipoise"
fi

folder=$(mktemp -d "$cache/profile.XXXXXX")
bench=""
trap 'kill $bench 2>/dev/null || true; rm -rf "$folder"' EXIT
say "$*"
"$EQUIPOISE" bench run "$@" --json >"$folder/run.json" &
bench=$!
# The warm-up takes 2 s.
sleep 4
service=$(pgrep -P "$bench") || fail "the workload ended at once, or runs in no service of its own"
perf record --quiet --freq 2000 --call-graph fp --pid "$service" --output "$folder/perf.data" -- sleep 4
# A broken bound is no reason to show no profile.
wait "$bench" || true
perf script --input "$folder/perf.data" --fields comm,ip,sym,dso 2>/dev/null |
    python3 scripts/profile.py "$folder/run.json"
