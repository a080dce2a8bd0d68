#!/usr/bin/env bash
# Model-checks the kernel and the id protocol. loom explores every interleaving and reordering of small cases up to a number of preemptions;
# shuttle runs random and PCT schedules of larger ones.
#   scripts/models.sh --bounded    minutes; CI runs as much of them before the mutants (scripts/mutants.sh)
#   scripts/models.sh              three preemptions everywhere, 1,000,000 schedules: hours
# EQUIPOISE_LOOM_PREEMPTIONS and EQUIPOISE_SHUTTLE_ITERATIONS override either.
source "$(dirname "$0")/common.sh"

case "${1:-}" in
    --bounded)
        # loom: the bound that each model names for itself.
        iterations=20000
        ;;
    "")
        export EQUIPOISE_LOOM_PREEMPTIONS=${EQUIPOISE_LOOM_PREEMPTIONS:-3}
        iterations=1000000
        ;;
    *) fail "usage: scripts/models.sh [--bounded]" ;;
esac
export EQUIPOISE_SHUTTLE_ITERATIONS=${EQUIPOISE_SHUTTLE_ITERATIONS:-$iterations}

for checker in loom shuttle; do
    say "$checker (preemptions: ${EQUIPOISE_LOOM_PREEMPTIONS:-as each model says}, schedules: $EQUIPOISE_SHUTTLE_ITERATIONS)"
    export RUSTFLAGS="--cfg equipoise_no_benches --cfg equipoise_$checker" CARGO_TARGET_DIR="target-$checker"
    filters=("kernel::models::$checker")
    # The id protocol, with an index that only shuttle runs.
    [ "$checker" = loom ] || filters+=("ids::model::")
    tested cargo test --locked --release --lib --no-default-features -- "${filters[@]}"
done
echo "$total_passed models passed"
