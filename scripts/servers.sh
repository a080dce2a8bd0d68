#!/usr/bin/env bash
# A real Kafka and a real PostgreSQL on loopback, to try the inventory door with.
#
#   eval "$(scripts/servers.sh start)"    installs what is missing, starts both, sets KAFKA_BROKERS and DATABASE_URL
#   scripts/servers.sh stop               stops both; their data stay
#   scripts/servers.sh destroy            ends both and deletes their data
#
# KAFKA_PORT and POSTGRES_PORT choose other ports than 29092 and 29432.
source "$(dirname "$0")/common.sh"
kafka() { KAFKA_CACHE_DIR=$cache/kafka-broker tests/servers/kafka.sh "$1"; }
postgres() { tests/servers/postgres.sh "$1"; }

case ${1:-} in
    start)
        scripts/packages.sh >&2
        brokers=$(kafka start)
        url=$(postgres start)
        printf 'export KAFKA_BROKERS=%q DATABASE_URL=%q\n' "$brokers" "$url"
        ;;
    stop | destroy)
        kafka "$1"
        postgres "$1"
        ;;
    *)
        sed -n '2,/^source /{/^#/s/^# \{0,1\}//p}' "$0" >&2
        exit 2
        ;;
esac
