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
    # It only starts what is measured: its own speed does not matter, that of its build does.
    CARGO_TARGET_DIR="$cache/tools-build" cargo install --debug cargo-fuzz --locked --version "$version" --root "$tools" --force
fi

# Sixteen units instead of cargo-fuzz's one: the build takes longer than a short run, and gains more than that loses.
build=(--codegen-units 16)
say "building"
for target in "$@"; do
    cargo +nightly fuzz build "${build[@]}" "$target"
done

# Fuzzes one target, shows what it printed last, and says how many inputs it ran.
fuzz() {
    local target=$1 log code=0 executed longest
    # From the start inputs of any length up to this: libFuzzer begins with the shortest, and where an input takes
    # milliseconds, a short run would try no others.
    case $target in
    operations | events) longest=4096 ;;
    *) longest=512 ;;
    esac
    mkdir -p "fuzz/corpus/$target"
    log=$(mktemp "$cache/fuzz.XXXXXX")
    cargo +nightly fuzz run "${build[@]}" "$target" -- \
        -max_total_time="$seconds" -len_control=0 -max_len="$longest" -timeout=20 -rss_limit_mb=6144 -print_final_stats=1 >"$log" 2>&1 || code=$?
    executed=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    say "$target: ${executed:-0} inputs"
    tail -n 40 "$log"
    if [ $code -ne 0 ]; then
        # Why, and on which input, stands before a long backtrace: once more, where it is seen.
        grep -A 3 -E 'panicked at|ERROR: ' "$log" | head -n 12 || true
        grep -E 'Test unit written to|^Base64: ' "$log" || true
    fi
    rm -f "$log"
    [ $code -eq 0 ] || fail "$target failed ($code)"
    [ "${executed:-0}" -gt 0 ] || fail "$target executed nothing"
}

say "fuzzing for $seconds s each, one a core: $*"
running=()
for target in "$@"; do
    while [ "$(jobs -rp | wc -l)" -ge "$(nproc)" ]; do sleep 1; done
    fuzz "$target" &
    running+=($!)
done
failures=0
for pid in "${running[@]}"; do
    wait "$pid" || failures=$((failures + 1))
done
[ "$failures" -eq 0 ] || fail "$failures targets failed"
