#!/usr/bin/env bash
# The Debian packages that the features kafka and postgres and their tests need: a C compiler and libraries for librdkafka,
# Java and Maven for the broker, the PostgreSQL server. Installs what is missing, as root; else says what to install.
source "$(dirname "$0")/common.sh"

packages=()
need() { # package, then a command that succeeds when it is there
    local package=$1
    shift
    "$@" >/dev/null 2>&1 || packages+=("$package")
}
postgres_server() { compgen -G '/usr/lib/postgresql/*/bin/postgres'; }

need gcc command -v cc
need make command -v make
need pkg-config command -v pkg-config
need openssl command -v openssl
need libssl-dev pkg-config --exists openssl
need zlib1g-dev pkg-config --exists zlib
need openjdk-17-jre-headless command -v java
need maven command -v mvn
need postgresql postgres_server

if [ ${#packages[@]} -gt 0 ]; then
    [ "$EUID" -eq 0 ] || fail "packages are missing; as root: apt-get install ${packages[*]}"
    say "installing ${packages[*]}"
    timeout 120 apt-get -o Acquire::Retries=3 update --quiet
    DEBIAN_FRONTEND=noninteractive timeout 600 apt-get -o Acquire::Retries=3 -o DPkg::Lock::Timeout=60 install --yes --quiet \
        --no-install-recommends "${packages[@]}"
fi
