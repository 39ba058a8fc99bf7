#!/usr/bin/env bash
# Installs sparsity-monitor into an environment of its own, and tries the published claims about sparse updates on a
# small model: about 25 minutes on two idle cores. Arguments are passed on; --help explains them. Safe to run again: what
# has finished is kept. Needs Python 3.11 or newer, and nothing else.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

source examples/environment.sh
ensure_environment train,service,fast,analysis

# Everything is made on this machine: no model and no data set is fetched, and nothing is reported to anybody.
export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 TOKENIZERS_PARALLELISM=false TRL_EXPERIMENTAL_SILENCE=1
# One thread for each training, and none that spins while it waits.
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive
# The examples import each other by their file names.
PYTHONPATH=examples exec .venv/bin/python -m paper.reproduce "$@"
