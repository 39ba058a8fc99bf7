"""The uploader and the commands in odd surroundings: beside modules with our names, and behind a proxy."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from monitor.report.reporter import Reporter
from tests.proxy import EXCEPTIONS, VARIABLES, RefusingProxy, refusing_proxy
from tests.report.attempts import ObservedModel, report_some, steps
from tests.service.messages import new_run_id, registration
from tests.service.running import COMMAND, Client

ROOT = Path(__file__).parents[3]
# Ours, a library's, and the standard library's, of those that an uploader imports.
NEIGHBOURS = ("monitor", "grpc", "types", "queue", "typing", "sqlite3", "sitecustomize")


@pytest.fixture
def neighbours(tmp_path: Path) -> Path:
    """A directory of a user's with modules of these names."""
    directory = tmp_path / "neighbours"
    directory.mkdir()
    for name in NEIGHBOURS:
        (directory / f"{name}.py").write_text(f"raise SystemExit('the {name}.py of a user was imported')")
    return directory


def _report_and_deliver(client: Client, observed: ObservedModel, directory: Path, target: str | None = None) -> None:
    reporter = Reporter(observed.registration(), directory, target or client.listening.grpc_address)
    report_some(reporter, observed, 2)
    reporter.finish(2)
    assert reporter.close(timeout=60), (directory / "uploader.log").read_text()
    assert steps(client, reporter.key.run_id) == [1, 2]


def _in_working_directory(neighbours: Path, patch: pytest.MonkeyPatch) -> None:
    patch.chdir(neighbours)


def _in_a_directory_that_is_gone(neighbours: Path, patch: pytest.MonkeyPatch) -> None:
    gone = neighbours / "gone"
    gone.mkdir()
    patch.chdir(gone)
    patch.setattr(sys, "path", ["", "relative", *sys.path])
    gone.rmdir()


def _in_pythonpath(neighbours: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setenv("PYTHONPATH", os.pathsep.join([str(neighbours), os.environ.get("PYTHONPATH", "")]))


def _beside_the_script(neighbours: Path, patch: pytest.MonkeyPatch) -> None:
    # What Python puts first, and what a notebook has there.
    patch.setattr(sys, "path", ["", str(neighbours), *sys.path])


def _in_both_with_safe_path(neighbours: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setenv("PYTHONSAFEPATH", "1")
    _in_pythonpath(neighbours, patch)
    _in_working_directory(neighbours, patch)


def _imported_at_every_start(neighbours: Path, patch: pytest.MonkeyPatch) -> None:
    """By a .pth file, as editable installs and tracing tools have them; a sitecustomize does the same."""
    (neighbours / "monitor.py").write_text("its = 'own'")
    environment = neighbours.parent / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    for path in (entry for entry in sys.path if entry.endswith("site-packages")):
        with (packages / "lent.pth").open("a") as lent:
            lent.write(f"{path}\n")
    (packages / "a_tool.pth").write_text(f"import sys; sys.path.insert(0, {str(neighbours)!r}); import monitor\n")
    for name in set(NEIGHBOURS) - {"monitor"}:
        (neighbours / f"{name}.py").unlink()
    patch.setattr(sys, "executable", str(environment / "bin" / "python"))


@pytest.mark.parametrize(
    "where",
    [
        _in_working_directory,
        _in_a_directory_that_is_gone,
        _in_pythonpath,
        _beside_the_script,
        _in_both_with_safe_path,
        _imported_at_every_start,
    ],
)
def test_the_uploader_takes_no_module_of_the_users_for_another(
    where: Callable[[Path, pytest.MonkeyPatch], None],
    neighbours: Path,
    client: Client,
    observed: ObservedModel,
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    where(neighbours, monkeypatch)
    _report_and_deliver(client, observed, directory)


def test_the_uploader_finds_libraries_where_the_training_found_them(
    client: Client, observed: ObservedModel, directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a script extends sys.path itself: the child's Python alone would not find them."""
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare], check=True)
    monkeypatch.setattr(sys, "executable", str(bare / "bin" / "python"))
    _report_and_deliver(client, observed, directory)


_REPORT = """
import sys
from pathlib import Path
from monitor.report import reporter
from monitor.wire import monitor_pb2 as pb

assert ".zip" in reporter.__file__
reporting = reporter.Reporter(pb.Registration.FromString(Path("registration").read_bytes()), Path("spool"), sys.argv[1])
reporting.finish(0)
assert reporting.close(timeout=60), Path("spool/uploader.log").read_text()
"""


def test_the_uploader_starts_from_a_zipped_package(client: Client, tmp_path: Path) -> None:
    """As clusters send a program to their workers."""
    with zipfile.ZipFile(tmp_path / "program.zip", "w") as zipped:
        for file in (ROOT / "monitor").rglob("*.py"):
            zipped.write(file, file.relative_to(ROOT))
    run_id = new_run_id()
    (tmp_path / "registration").write_bytes(registration(run_id).SerializeToString())
    done = subprocess.run(
        [sys.executable, "-c", _REPORT, client.listening.grpc_address],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": "program.zip"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert client.is_over(run_id)


# ------------------------------------------------------------------------------------------------------- behind a proxy


@pytest.fixture
def proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RefusingProxy]:
    """A proxy that every variable names, and none excepts anything from."""
    with refusing_proxy(tmp_path) as proxy:
        for name in VARIABLES:
            monkeypatch.setenv(name, proxy.url())
        for name in EXCEPTIONS:
            monkeypatch.delenv(name, raising=False)
        yield proxy


@pytest.mark.parametrize("form", ["127.0.0.1:{port}", "localhost:{port}", "dns:///localhost:{port}"])
def test_a_service_on_this_machine_is_reported_to_past_a_proxy(
    form: str, client: Client, proxy: RefusingProxy, observed: ObservedModel, directory: Path
) -> None:
    port = client.listening.grpc_address.rpartition(":")[2]
    _report_and_deliver(client, observed, directory, form.format(port=port))
    assert proxy.asked == []


def test_the_commands_reach_a_service_on_this_machine_past_a_proxy(
    client: Client, proxy: RefusingProxy, observed: ObservedModel, directory: Path
) -> None:
    reporter = Reporter(observed.registration(), directory, None)
    reporter.finish(0)
    reporter.close(timeout=0)
    target = client.listening.grpc_address
    for arguments in (["push", str(directory), "--target", target], ["runs", target]):
        done = subprocess.run([COMMAND, *arguments], capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
    assert reporter.key.run_id in done.stdout
    assert proxy.asked == []


def test_the_commands_name_the_proxy_that_stands_before_a_service_elsewhere(
    proxy: RefusingProxy, observed: ObservedModel, directory: Path
) -> None:
    reporter = Reporter(observed.registration(), directory, None)
    reporter.finish(0)
    reporter.close(timeout=0)
    target = "service.invalid:50051"
    for arguments in (
        ["push", str(directory), "--target", target, "--patience-seconds", "0"],
        ["runs", target],
    ):
        done = subprocess.run([COMMAND, *arguments], capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 1
        expected = f"cannot reach the service at {target} through the proxy of grpc_proxy={proxy.url()}: "
        assert expected in done.stderr
    assert set(proxy.asked) == {f"CONNECT {target}"}
