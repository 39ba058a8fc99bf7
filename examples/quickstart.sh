#!/usr/bin/env bash
# Installs sparsity-monitor into an environment of its own, and runs examples/quickstart.py; arguments are passed on.
# Needs Python 3.11 or newer, and nothing else. Safe to run again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

source examples/environment.sh
ensure_environment train,service

# Everything is made on this machine: no model and no data set is fetched, and nothing is reported to anybody.
export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 TOKENIZERS_PARALLELISM=false
# Threads that wait do not spin: the training shares its cores with the service.
export OMP_WAIT_POLICY=passive
exec .venv/bin/python examples/quickstart.py "$@"
