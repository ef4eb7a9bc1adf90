#!/usr/bin/env bash
# Runs every fuzz target of the repository, one after the other, each for the given time.
# Usage: fuzz.sh TIME (30s); FUZZ_PARALLEL is the number of processes (1).
set -euo pipefail
cd "$(dirname "$0")/.."

time=${1:?usage: fuzz.sh TIME}
ran=0
for package in $(go list ./... | grep --invert-match '/server/e2e$'); do
    targets=$(go test -list='^Fuzz' "$package" | grep '^Fuzz' || true)
    for target in $targets; do
        echo "fuzz.sh: $package $target for $time"
        # Minimising interesting inputs would take most of a short run.
        go test -run='^$' -fuzz="^$target\$" -fuzztime="$time" -fuzzminimizetime=1x \
            -parallel="${FUZZ_PARALLEL:-1}" "$package"
        ran=$((ran + 1))
    done
done
if ((ran == 0)); then
    echo "fuzz.sh: no fuzz target found" >&2
    exit 1
fi
