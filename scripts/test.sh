#!/usr/bin/env bash
# Runs every test: in debug, where an overflow panics; in release, where the timings count; the engine alone; and a
# Python client against the real binary. Needs Rust and Python 3 with venv; it installs what the client needs from PyPI
# under .cache. This version has no Kafka or PostgreSQL door, so no such server is needed.
source "$(dirname "$0")/common.sh"

say "all features, debug: unit, integration and documentation tests"
tested cargo test --locked --no-fail-fast

say "all features, release"
tested cargo test --locked --release --no-fail-fast

say "the engine alone, release"
tested cargo test --locked --release --no-default-features --no-fail-fast

say "a Python client against the real binary"
venv="$cache/python"
requirements=tests/python/requirements.txt
if ! cmp -s "$requirements" "$venv/requirements.txt"; then
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --requirement "$requirements"
    cp "$requirements" "$venv/requirements.txt"
fi
cargo build --locked --release --bin equipoise
log=$(mktemp "$cache/python.XXXXXX")
"$venv/bin/python" tests/python/test_client.py "${CARGO_TARGET_DIR:-target}/release/equipoise" 2>&1 | tee "$log"
python_passed=$(sed -n 's/^\([0-9]*\) passed, 0 failed$/\1/p' "$log")
rm -f "$log"
[ "${python_passed:-0}" -gt 0 ] || fail "the Python client ran no test"

say "all tests together"
echo "$((total_passed + python_passed)) passed, 0 failed"
