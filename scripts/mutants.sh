#!/usr/bin/env bash
# Runs every model, as scripts/models.sh does; then seeds each bug of `enum Mutant` (src/kernel/sync.rs) into the kernel
# and the id protocol, one at a time, and fails unless a model or test catches every one of them, those first that
# docs/mutants.md records. Prints the table for there.
#   scripts/mutants.sh --bounded         what CI runs
#   scripts/mutants.sh                   many more schedules before a mutant counts as missed
#   scripts/mutants.sh [--bounded] NAME  that mutant only
#   scripts/mutants.sh [--bounded] --all goes on after the first test that catches a mutant, and names them all
source "$(dirname "$0")/common.sh"

exec python3 scripts/mutants.py "$@"
