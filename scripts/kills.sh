#!/usr/bin/env bash
# kill -9 and power cuts under load, many times, against the real binary: each time it is started again on what is left,
# and everything that anybody was told must be there.
#   scripts/kills.sh [ROUNDS OF kill -9]    (default: 1000; a quarter as many power cuts of each kind)
source "$(dirname "$0")/common.sh"

export EQUIPOISE_KILLS=${1:-1000}
say "kill -9 and power cuts, $EQUIPOISE_KILLS rounds"
tested cargo test --locked --test process -- --nocapture killed_under_load power::
say "nothing was lost"
