#!/usr/bin/env bash
# What takes too long for CI: every model deep, every mutant with many schedules, sanitizers again and again, a
# thousand kills of the real binary, and hours of fuzzing. Begin it in the evening.
#   scripts/soak.sh [HOURS OF FUZZING A TARGET]    (default: 4)
source "$(dirname "$0")/common.sh"

hours=${1:-4}
scripts/models.sh
scripts/mutants.sh
for round in $(seq 10); do
    say "sanitizers, round $round of 10"
    scripts/sanitize.sh
done
scripts/kills.sh 1000
say "what ids and operations cost in memory, on disk"
cargo run --locked --release --no-default-features --example memory -- disk
scripts/fuzz.sh $((hours * 3600))
say "the soak found nothing"
