"""What pyproject.toml promises to work with does: the lowest versions it allows, and the newest on a newer Python."""

from __future__ import annotations

import re
import sys
import tomllib
from functools import cache

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.floors.environments import Environment
from tests.floors.pythons import at_least
from tests.installing import ROOT

# One worker makes an environment and uses it.
pytestmark = pytest.mark.xdist_group("floors")

# Wheels of numpy 1.26 and its contemporaries end here.
LAST_FOR_LOWEST = (3, 12)
NEWER = (3, 13)
KERNELS = "tests/observe/kernels"
# Of all cases some: numba takes ten seconds to compile what a pair of dtypes needs.
CHUNKS = ("numpy-strided", "streamed-float32", "streamed-low-bytes", "numba-bfloat16", "numba-low-bytes")


@cache
def lowest() -> Environment:
    if sys.version_info[:2] > LAST_FOR_LOWEST:
        pytest.skip("the lowest versions have no wheels for a Python as new as the one that runs the tests")
    return Environment("lowest", sys.executable)


@cache
def newest() -> Environment:
    python = at_least(*NEWER)
    if python is None:
        pytest.skip(f"no Python {'.'.join(map(str, NEWER))} or newer was found on the PATH, or among those of pyenv")
    return Environment("newest", python)


@pytest.fixture(params=[lowest, newest])
def environment(request: pytest.FixtureRequest) -> Environment:
    made: Environment = request.param()
    return made


def test_the_service_trainings_and_kernels_work(environment: Environment) -> None:
    """In one process of pytest: starting it takes as long as most of the tests in it."""
    service = (
        "tests/service/web/test_app.py",
        "tests/service/web/page/test_page.py",
        "tests/service/test_cli.py::test_every_setting_has_an_option_and_a_variable",
    )
    training = (
        "tests/floors/trainings.py",
        *(f"{KERNELS}/test_agreement.py::test_tensors_of_several_chunks[{case}]" for case in CHUNKS),
        f"{KERNELS}/test_agreement.py::test_the_same_list_of_segments_under_other_rules",
        f"{KERNELS}/test_triton_tiles.py::test_tensors_of_several_tiles_and_a_rest",
    )
    line = environment.pytest(*service, *(training if environment.torch else ()))
    assert "skipped" not in line
    if not environment.torch:
        pytest.skip("trainings: the Python that was found has no torch to lend; one for CUDA has gigabytes")


def test_the_lowest_environment_has_the_floors() -> None:
    """Each `>=` of what users install is a version that the tests above ran with, torch's excepted."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {name: needs for name, needs in project["optional-dependencies"].items() if name != "dev"}
    pins = dict(re.findall(r"^([\w-]+)==(\S+)", (ROOT / "tests/floors/lowest.txt").read_text(), re.MULTILINE))
    for text in [*project["dependencies"], *(each for needs in extras.values() for each in needs)]:
        needed = Requirement(text)
        if needed.name != "torch":
            floors = [Version(bound.version) for bound in needed.specifier if bound.operator in (">=", "==")]
            assert floors == [Version(pins[canonicalize_name(needed.name)])], text
