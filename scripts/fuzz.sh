#!/usr/bin/env bash
# Fuzzes the ledger against a plain model (operations), the service's requests (requests), what recovery makes of
# well-signed batches (batches) and of harmed directories (recovery), and the decoder of inventory events (events), with
# AddressSanitizer.
#   scripts/fuzz.sh [SECONDS] [TARGET ...]    (default: 30 seconds each of all)
# Corpora grow in fuzz/corpus; what fails is left in fuzz/artifacts.
source "$(dirname "$0")/common.sh"

version=0.13.2
seconds=${1:-30}
shift || true
[ $# -gt 0 ] || set -- operations requests batches recovery events

rustup toolchain list | grep -q '^nightly' || fail "needs a nightly toolchain: rustup toolchain install nightly"
tools="$cache/tools"
export PATH="$tools/bin:$PATH"
if [ "$("$tools/bin/cargo-fuzz" --version 2>/dev/null)" != "cargo-fuzz $version" ]; then
    say "installing cargo-fuzz $version into .cache/tools"
    CARGO_TARGET_DIR="$cache/tools-build" cargo install cargo-fuzz --locked --version "$version" --root "$tools" --force
fi

for target in "$@"; do
    say "fuzzing $target for $seconds s"
    mkdir -p "fuzz/corpus/$target"
    log=$(mktemp "$cache/fuzz.XXXXXX")
    cargo +nightly fuzz run "$target" -- \
        -max_total_time="$seconds" -timeout=20 -rss_limit_mb=6144 -print_final_stats=1 2>&1 | tee "$log" | tail -n 40
    executed=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    rm -f "$log"
    [ "${executed:-0}" -gt 0 ] || fail "$target executed nothing"
    echo "$target: $executed inputs"
done
