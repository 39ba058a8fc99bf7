#!/usr/bin/env bash
# Installs sparsity-monitor into an environment of its own, and runs examples/quickstart.py; arguments are passed on.
# Needs Python 3.11 or newer, and nothing else. Safe to run again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

find_python() {
    local candidate
    for candidate in python3.11 python3 python3.12 python3.13; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "No Python 3.11 or newer was found on the PATH. Install one, for example: apt install python3" >&2
    return 1
}

make_environment() {
    local python
    python=$(find_python)
    # Debian keeps what `python -m venv` needs in a package of its own.
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        local package
        package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
        if [[ $EUID -ne 0 ]] || ! command -v apt-get >/dev/null; then
            echo "$python cannot make virtual environments. Install $package, for example: sudo apt install $package" >&2
            return 1
        fi
        apt-get update -qq
        apt-get install -y -qq --no-install-recommends "$package"
    fi
    "$python" -m venv .venv
}

[[ -x .venv/bin/python ]] || make_environment

# What is installed is written down, so that the next start need not ask.
installed=.venv/quickstart-installed
if [[ ! -f $installed || pyproject.toml -nt $installed ]]; then
    echo "Installing into $PWD/.venv: this takes a few minutes the first time."
    # torch first, and by its exact version: the version that the numbers in this example were measured with.
    .venv/bin/python -m pip install --disable-pip-version-check "torch==2.13.0"
    .venv/bin/python -m pip install --disable-pip-version-check --editable ".[train,service]"
    touch "$installed"
fi

# Everything is made on this machine: no model, no data set is fetched, and nothing is reported to anybody.
export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 TOKENIZERS_PARALLELISM=false
# Threads that wait do not spin: the service and the training share the cores.
export OMP_WAIT_POLICY=passive
exec .venv/bin/python examples/quickstart.py "$@"
