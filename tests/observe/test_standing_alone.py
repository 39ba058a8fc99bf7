"""What measures works where only torch, triton and numpy are: as on a bare machine with a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent

# Lets nothing be imported but the standard library, these distributions and what they require themselves.
_ALONE = """
import re, sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires

def closure(names):
    found, left = set(), list(names)
    while left:
        name = re.sub(r"[-_.]+", "-", left.pop()).lower()
        if name in found:
            continue
        found.add(name)
        try:
            wanted = requires(name) or []
        except PackageNotFoundError:
            continue
        left += [re.match(r"[\\w.-]+", each)[0] for each in wanted if "extra ==" not in each]
    return found

allowed = closure(sys.argv[1].split(","))
banned = {
    module
    for module, distributions in packages_distributions().items()
    if not {re.sub(r"[-_.]+", "-", name).lower() for name in distributions} & (allowed | {"sparsity-monitor"})
}
assert {"pydantic", "transformers", "grpc", "safetensors", "numba"} <= banned

class Alone:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in banned:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Alone())
"""

_MEASURE = """
import importlib, pkgutil
import torch
import monitor.observe

for module in pkgutil.walk_packages(monitor.observe.__path__, "monitor.observe."):
    # Want numba by their nature; the observer does without.
    if not module.name.startswith("monitor.observe.kernels.numba_"):
        importlib.import_module(module.name)

from monitor.observe.observer import UpdateObserver

model = torch.nn.Linear(33, 5, bias=False)
observer = UpdateObserver(model, tolerances=[1e-3])
with torch.no_grad():
    model.weight[0] += 1.0
print(observer.observe(1).changed.tolist())
"""

_TESTS = """
import importlib

for name in sys.argv[2].split(","):
    importlib.import_module(name)
print("imported")
"""


def alone(allowed: str, code: str, *arguments: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(
        [sys.executable, "-c", _ALONE + code, allowed, *arguments],
        cwd=ROOT,
        env=environment | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_weights_are_measured_with_torch_triton_and_numpy_alone() -> None:
    assert alone("torch,triton,numpy", _MEASURE) == "[33]\n"


def test_tests_of_the_kernel_on_a_gpu_want_pytest_and_hypothesis_beside_these() -> None:
    modules = (
        "tests.gpu.target,tests.observe.kernels.cases,tests.observe.kernels.test_gpu,"
        "tests.observe.test_beside_training,tests.observe.masks.test_mask_on_gpu,tests.benchmarks.observe"
    )
    assert alone("torch,triton,numpy,pytest,hypothesis", _TESTS, modules) == "imported\n"
