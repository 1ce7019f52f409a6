#!/bin/sh
# The gate of a release: CANDIDATE beside the model that was released last. Exits as mpo does.
#
#   gate.sh CANDIDATE BASELINE FOLDER [options of mpo bench]
set -eu
candidate=$1 baseline=$2 folder=$3
shift 3
: "${RULES:=latency>3%,memory>5%,size>2%,params>2%}"
mkdir -p "$folder"
exec mpo bench "$candidate" --baseline "$baseline" --fail-on "$RULES" --strict --threads 1 \
  --json "$folder/bench.json" --junit "$folder/bench.xml" \
  --markdown "$folder/bench.md" --bmf "$folder/bench.bmf.json" "$@"
