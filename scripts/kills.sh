#!/usr/bin/env bash
# kill -9 and power cuts under load, many times, against the real binary: each time it is started again on what is left,
# and everything that anybody was told must be there. Then consumers, broker and PostgreSQL.
#   scripts/kills.sh [ROUNDS OF kill -9]    (default: 1000; a quarter as many power cuts of each kind, a fifth with Kafka,
#                                               and a fiftieth of sleeping instances)
source "$(dirname "$0")/common.sh"

export EQUIPOISE_KILLS=${1:-1000}
say "kill -9 and power cuts, $EQUIPOISE_KILLS rounds"
tested cargo test --locked --test process -- --nocapture killed_under_load power::

export EQUIPOISE_INVENTORY_KILLS=$((EQUIPOISE_KILLS / 5))
say "kill -9 of consumers, broker and PostgreSQL, $EQUIPOISE_INVENTORY_KILLS rounds"
scripts/packages.sh
KAFKA_CACHE_DIR=$cache/kafka-broker tests/servers/kafka.sh install
export EQUIPOISE_INVENTORY_SLEEPS=$((EQUIPOISE_KILLS / 50 + 1))
tested cargo test --locked --features full --test inventory -- --nocapture killed_at_random_moments a_sleeper_changes_nothing
say "nothing was lost"
