#!/usr/bin/env bash
# Writes lowest.txt and newest.txt anew: what the floors of pyproject.toml resolve to, and the newest releases.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

resolve() {
    local name=$1
    shift
    .venv/bin/python -m uv pip compile pyproject.toml "tests/floors/$name.in" --output-file "tests/floors/$name.txt" --upgrade \
        --excludes tests/floors/without.txt --extra train --extra service --extra postgresql --extra grafana --extra fast \
        --extra triton --extra analysis --no-annotate --custom-compile-command "bash tests/floors/resolve.sh" --quiet "$@"
}

resolve lowest --resolution lowest-direct --python-version 3.11
resolve newest --python-version 3.13
