# Sourced by quickstart.sh, paper/reproduce.sh and tests/run.sh, in the repository's root: makes the virtual environment
# .venv and installs sparsity-monitor into it. Needs Python 3.11 or newer, and nothing else.

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

# ensure_environment EXTRAS: install the package with these extras, unless that was done and nothing has changed since.
ensure_environment() {
    local installed=".venv/installed-$1"
    [[ -x .venv/bin/python ]] || make_environment
    if [[ ! -f $installed || pyproject.toml -nt $installed || examples/constraints.txt -nt $installed ]]; then
        echo "Installing into $PWD/.venv: this takes a few minutes the first time."
        # torch first, and by its exact version: the one that tests and examples are measured with.
        .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-compile "torch==2.13.0"
        .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-compile --editable ".[$1]" \
            --constraint examples/constraints.txt
        # On all cores; pip would on one. What does not compile is for other Pythons.
        .venv/bin/python -m compileall -qq -j 0 .venv/lib || true
        touch "$installed"
    fi
}
