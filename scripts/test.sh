#!/usr/bin/env bash
# Runs every test in debug, where an overflow panics; the engine's again, alone and in release, where threads meet at full
# speed; and a Python client against the real binary. Needs Rust and Python 3 with venv, and root where Debian
# packages are missing; it installs what the client needs from PyPI under .cache, and starts a Kafka broker and a PostgreSQL
# server on loopback, which end with it.
#   scripts/test.sh             what CI runs
#   scripts/test.sh --whole     the service's tests again in release, the Python client too
source "$(dirname "$0")/common.sh"

whole=""
case "${1:-}" in
    --whole) whole=yes ;;
    "") ;;
    *) fail "usage: scripts/test.sh [--whole]" ;;
esac

# Its ports are the machine's. The lock is flock's own: what outlives this script does not hold it.
if [ -z "${TEST_LOCKED:-}" ]; then
    export TEST_LOCKED=1
    lock=${TMPDIR:-/tmp}/equipoise-test-$EUID.lock
    flock --nonblock "$lock" true || say "another run of the tests is under way on this machine: waiting for it"
    exec flock --close "$lock" scripts/test.sh "$@"
fi

scripts/packages.sh

say "a Kafka broker and a PostgreSQL server"
# Not the ports of scripts/servers.sh: that may run beside.
kafka() { KAFKA_PORT=28092 KAFKA_CACHE_DIR=$cache/kafka-broker tests/servers/kafka.sh "$1"; }
postgres() { POSTGRES_PORT=28432 tests/servers/postgres.sh "$1"; }
ended() {
    kafka destroy
    postgres destroy
}
trap ended EXIT
ended
TEST_KAFKA=$(kafka start)
TEST_POSTGRES=$(postgres start)
export TEST_KAFKA TEST_POSTGRES

# Whatever the service waits for, a test waits for too: more of these at a time than there are cores.
waiting=(kafka postgres inventory)
computing=()
for test in tests/*.rs tests/*/main.rs; do
    name=${test#tests/} name=${name%/main.rs} name=${name%.rs}
    [[ " ${waiting[*]} " = *" $name "* ]] || computing+=(--test "$name")
done

say "all features, debug: unit, integration and documentation tests"
# One build of everything.
cargo test --locked --features full --no-run
tested cargo test --locked --features full --no-fail-fast --lib --bins --examples "${computing[@]}"
tested cargo test --locked --features full --no-fail-fast "${waiting[@]/#/--test=}" -- --test-threads=$((2 * $(nproc)))
tested cargo test --locked --features full --no-fail-fast --doc

alone() {
    RUSTFLAGS="${RUSTFLAGS:-} --cfg equipoise_no_benches" CARGO_TARGET_DIR=target-alone \
        cargo "$1" --locked --release --no-default-features "${@:2}"
}
say "the engine alone, release"
tested alone test --no-fail-fast
say "what accounts, ids and operations cost in memory"
# Without "-- disk", which scripts/soak.sh runs: there a merge of the id index may be all of the tenth that is allowed.
alone run --example memory

if [ -n "$whole" ]; then
    say "release, without Kafka and PostgreSQL: those wait for servers, not for our code"
    tested cargo test --locked --release --no-fail-fast
fi

profile=debug build=(--features full)
[ -z "$whole" ] || profile=release build=(--release)
say "a Python client against the real binary, $profile"
venv="$cache/python"
requirements=tests/python/requirements.txt
if ! cmp -s "$requirements" "$venv/requirements.txt"; then
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --requirement "$requirements"
    cp "$requirements" "$venv/requirements.txt"
fi
cargo build --locked "${build[@]}" --bin equipoise
log=$(mktemp "$cache/python.XXXXXX")
"$venv/bin/python" tests/python/test_client.py "${CARGO_TARGET_DIR:-target}/$profile/equipoise" 2>&1 | tee "$log"
python_passed=$(sed -n 's/^\([0-9]*\) passed, 0 failed$/\1/p' "$log")
rm -f "$log"
[ "${python_passed:-0}" -gt 0 ] || fail "the Python client ran no test"

say "all tests together"
[ "${total_skipped:-0}" -eq 0 ] || say "this machine did not let $total_skipped of them try everything: search for \"skipped: \" above"
echo "$((total_passed + python_passed)) passed, 0 failed"
