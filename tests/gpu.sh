#!/usr/bin/env bash
# Everything that needs an NVIDIA GPU: all tests marked `gpu`, then the benchmarks, in less than nine minutes on an H100.
# Most important first; results are written as they come.
#
#     OUT=results bash tests/gpu.sh                     on a machine with a GPU: results/gpu.md and results/gpu.log
#     OUT=results bash tests/gpu.sh --interpret         the same on a CPU with small shapes, which measures nothing
#     OUT=results bash tests/gpu.sh --only agreement    one stage of it
#     bash tests/gpu.sh --allow-none                    succeeds where there is no GPU
#
# It takes the Python that is there, and downloads nothing. Variables:
#
#     OUT      folder that gpu.md and gpu.log are written to
#     PYTHON   the Python to use; by default python3
#     WHEELS   folder with wheels of what that Python lacks; they are installed for this run only
#
# The kernel and its tests want these; the first two and a C compiler with Python's headers are what Triton wants itself:
#
#     Python 3.12   torch 2.11   triton 3.6   numpy 2 (to rehearse: below 2.4)   pytest 9   hypothesis 6
#     pytest-xdist 3   shares the compiling among processes: without it, agreement does not end within its time
#
# The trainings want these beside them, and are skipped without:
#
#     transformers 5.17   accelerate 1.15   protobuf 6.30 or newer   pydantic 2.9 or newer
#
# pydantic is what such a machine is likeliest to lack. Its wheels, for Python 3.12 on x86-64:
#
#     python3 -m pip download --no-deps --only-binary=:all: --python-version 3.12 --platform manylinux2014_x86_64 \
#         --dest wheels pydantic==2.14.4 pydantic-core==2.50.5 annotated-types==0.8.0 typing-inspection==0.4.5
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python3}

# Whatever happens, what was installed for this run goes.
if [[ -n ${WHEELS:-} ]]; then
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    for wheel in "$WHEELS"/*.whl; do
        # One by one: a wheel that does not fit this Python takes only itself away.
        "$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --target "$site" "$wheel" ||
            echo "Went on without $wheel." >&2
    done
    export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
fi

"$python" -m tests.gpu.run "$@"
