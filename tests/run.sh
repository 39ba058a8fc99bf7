#!/usr/bin/env bash
# Installs what the tests need and runs them all: lint, types, tests. Safe to run again. Arguments go to pytest: `-n 0`
# runs one test after another, as a debugger needs it; `-n 4` runs four at a time, where there are the cores.
# Needs Python 3.11 or newer, and nothing else.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source examples/environment.sh

# The real parts that the tests run against, and the Debian package of each.
declare -A packages=(
    [prometheus]=prometheus
    [promtool]=prometheus
    [prometheus-alertmanager]=prometheus-alertmanager
    [amtool]=prometheus-alertmanager
    [psql]=postgresql
    [chromium-headless-shell]=chromium-headless-shell
    [nft]=nftables
    [g++]=g++ # torch.compile compiles on the CPU
)

install_system_packages() {
    local program missing=()
    for program in "${!packages[@]}"; do
        command -v "$program" >/dev/null || missing+=("${packages[$program]}")
    done
    # Debian keeps PostgreSQL's server programs off the PATH.
    compgen -G "/usr/lib/postgresql/*/bin/initdb" >/dev/null || missing+=(postgresql)
    # What they compile against.
    [[ -f $(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h ]] ||
        missing+=("$(.venv/bin/python -c 'import sys; print("python%d.%d-dev" % sys.version_info[:2])')")
    [[ ${#missing[@]} -eq 0 ]] && return
    if [[ $EUID -ne 0 ]] || ! command -v apt-get >/dev/null; then
        echo "Some tests need these Debian packages: ${missing[*]}. Install them to run all." >&2
        return
    fi
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
}

ensure_environment dev
install_system_packages

.venv/bin/ruff check .
.venv/bin/ruff format --check .
# The types beside the tests: they are checked on one core.
types=$(mktemp)
trap 'kill "$checking" 2>/dev/null || true; rm -f "$types"' EXIT
.venv/bin/mypy >"$types" 2>&1 &
checking=$!
# Threads that wait do not spin: services, trainers and browsers share the cores.
export OMP_WAIT_POLICY=passive
# Twice as many as there are cores, for tests wait for processes; four at most. Tests of one group share what takes long
# to start.
cores=$(nproc)
status=0
.venv/bin/python -m pytest --numprocesses "$((cores < 2 ? 2 : 4))" --dist loadgroup \
    --doctest-modules monitor tests "$@" || status=$?
wait "$checking" || status=$((status ? status : $?))
sed "s/^/mypy: /" "$types"
exit "$status"
