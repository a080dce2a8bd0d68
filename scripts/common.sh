# What every script begins with: the root of the checkout, strictness, and a place for tools that lies inside it.
# shellcheck shell=bash
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
cache="$PWD/.cache"
mkdir -p "$cache"
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-never}
host=$(rustc -vV | sed -n 's/^host: //p')

say() {
    printf '\n== %s\n' "$*"
}

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# Runs a test command, shows what it prints, and fails when it fails, runs no test, or skips one (`#[ignore]`). What a test says
# that this machine does not let it try is counted in total_skipped.
tested() {
    local log
    log=$(mktemp "$cache/tested.XXXXXX")
    "$@" 2>&1 | tee "$log"
    local summary
    summary=$(sed -n 's/^test result: .* \([0-9]*\) passed; \([0-9]*\) failed; \([0-9]*\) ignored;.*/\1 \2 \3/p' "$log" |
        awk '{ passed += $1; failed += $2; ignored += $3 } END { print passed + 0, failed + 0, ignored + 0 }')
    total_skipped=$((${total_skipped:-0} + $(grep -c '^skipped: ' "$log" || true)))
    rm -f "$log"
    local passed failed ignored
    read -r passed failed ignored <<<"$summary"
    [ "$passed" -gt 0 ] || fail "no test ran: $*"
    [ "$failed" -eq 0 ] || fail "$failed tests failed: $*"
    [ "$ignored" -eq 0 ] || fail "$ignored tests were skipped: $*"
    total_passed=$((${total_passed:-0} + passed))
}
