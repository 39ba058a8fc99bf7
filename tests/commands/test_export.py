"""`export` as a process: every point, in each form, and promtool takes what Prometheus is to take."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

from tests.commands.running import command, command_after, shell
from tests.grafana.binaries import binary, check
from tests.service.messages import logged, observed, registration
from tests.service.running import Client

# One worker forks them all.
pytestmark = pytest.mark.xdist_group("commands")

# More than the interface gives in one answer, and with holes.
_STEPS = (1, 2, 9_999, 10_000, 10_001, 20_000, 25_000, 123_456_788, 123_456_789)


def _url(client: Client) -> str:
    return f"http://{client.listening.http_address}"


def _rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_every_point_is_there_with_how_it_is_counted(service: Client, url: str) -> None:
    done = command("export", "my grpo", "--service-url", url, "--field", "changed", "--field", "metric:loss")
    assert (done.returncode, done.stderr) == (0, "")
    same = {"run": "grpo-1", "criterion": "bits", "visible_dtype": "bfloat16", "one_left_in": "1"}
    steps = range(1, 21)
    assert _rows(done.stdout) == [
        same
        | {"field": "changed", "unit": "weights", "step": f"{step}", "time": f"{1.7e9 + step}", "value": f"{4 * step}"}
        for step in steps
    ] + [
        same
        | {"field": "metric:loss", "unit": "", "step": f"{step}", "time": f"{1.7e9 + step}", "value": f"{1 / step}"}
        for step in steps
    ]


def test_nothing_is_thinned_however_many_steps_there_are(start: Callable[..., Client]) -> None:
    client = start()
    client.register(registration("long"))
    client.send("long", [observed(number, step=step, changed=[0, number, 0]) for number, step in enumerate(_STEPS, 1)])
    rows = _rows(command("export", "long", "--field", "changed", "--service-url", _url(client)).stdout)
    assert [(int(row["step"]), int(row["value"])) for row in rows] == [
        (step, number) for number, step in enumerate(_STEPS, 1)
    ]


def _series(line: str) -> tuple[str, frozenset[tuple[str, str]]]:
    name, labels = re.fullmatch(r"([^{ ]+)(?:\{(.*)\})? .*", line).groups()  # type: ignore[union-attr]
    return name, frozenset(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', labels or ""))


def test_prometheus_gets_a_run_under_the_names_of_metrics(start: Callable[..., Client], tmp_path: Path) -> None:
    client = start()
    client.register(registration("grpo", labels={"data-set": 'a "b"\n\\'}))
    items = [observed(step, changed=[0, step, 7]) for step in range(1, 6)]
    # Two within a millisecond: Prometheus takes one. One that is no number.
    items += [logged(6, step=1, loss=0.5, **{"eval/a": 2}), logged(7, step=2, loss=math.nan)]
    items += [observed(8, step=8, observed_at=1.7e9 + 5.0001, changed=[0, 100, 0])]
    client.send("grpo", items)
    file = tmp_path / "run.om"
    done = command("export", "grpo", "-o", str(file), "--service-url", _url(client))
    assert done.returncode == 0
    assert done.stderr.endswith(" points without a number, or without a time of their own, are left out\n")
    exported = [line for line in file.read_text().splitlines() if not line.startswith("#")]
    live = {_series(line) for line in client.http.get("/metrics").text.splitlines() if not line.startswith("#")}
    assert {_series(line) for line in exported} - live == set()
    blocks = tmp_path / "blocks"
    check(binary("promtool"), "tsdb", "create-blocks-from", "openmetrics", file, blocks)
    # Where a Prometheus writes what it scrapes; promtool looks for it.
    (blocks / "wal").mkdir()
    match = '--match={__name__="sparsity_monitor_run_changed_weights"}'
    dumped = check(binary("promtool"), "tsdb", "dump", match, blocks)
    assert [tuple(map(float, line.split("} ")[1].split())) for line in dumped.splitlines()] == [
        *((step + 7, (1.7e9 + step) * 1000) for step in range(1, 5)),
        (100, (1.7e9 + 5) * 1000),
    ]


def test_parquet_has_what_csv_has(service: Client, url: str, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    for name in ("run.csv", "run.parquet"):
        done = command("export", "grpo-1", "-o", str(tmp_path / name), "--service-url", url)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    rows = import_module("pyarrow.parquet").read_table(tmp_path / "run.parquet").to_pylist()
    written = _rows((tmp_path / "run.csv").read_text())
    assert len(rows) > 100
    for row, line in zip(rows, written, strict=True):
        value = float(line.pop("value")) if line["value"] else line.pop("value") or None
        assert (row.pop("value"), float(line.pop("time"))) == (value, row.pop("time"))
        assert {name: str(shown) for name, shown in row.items()} == line
    assert sorted(each.name for each in tmp_path.iterdir()) == ["run.csv", "run.parquet"]


def test_without_pyarrow_it_says_what_to_install_and_leaves_nothing(service: Client, url: str, tmp_path: Path) -> None:
    output = str(tmp_path / "run.parquet")
    done = command_after("sys.modules['pyarrow'] = None", "export", "grpo-1", "-o", output, "--service-url", url)
    assert done.returncode == 1
    assert done.stderr == "Parquet is written by pyarrow: pip install pyarrow, or export CSV\n"
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported_is_said_in_a_sentence(service: Client, url: str, tmp_path: Path) -> None:
    (kept := tmp_path / "kept.csv").write_text("mine")
    for arguments, said in (
        (["grpo-1", "-o", str(kept)], "which is there already: it is kept"),
        (["grpo-1", "-o", str(tmp_path / "run.xls")], "expected a name that ends in .csv, .om, .openmetrics, .parquet"),
        (["grpo-1", "-o", str(tmp_path / "nowhere" / "run.csv")], "expected a file in a directory that can be"),
        (["grpo-1", "--format", "parquet"], "Parquet is written to a file"),
        (["grpo-1", "--format", "openmetrics", "--field", "step_sparsity"], "/metrics has nothing of step_sparsity"),
        (
            ["grpo-1", "--field", "beauty"],
            "--field 'beauty': run grpo-1 has no such curve; it has cumulative_sparsity, ",
        ),
        (["sft-1"], "run sft-1 has no point of any curve yet"),
        (["nobody"], "has no run 'nobody'"),
    ):
        done = command("export", *arguments, "--service-url", url)
        assert (done.returncode, done.stdout) == (1, ""), arguments
        assert said in done.stderr
        assert "Traceback" not in done.stderr
    assert kept.read_text() == "mine"
    assert [each.name for each in tmp_path.iterdir()] == ["kept.csv"]
    assert command("export", "grpo-1", "--format", "xls").returncode == 2


def test_a_reader_that_leaves_early_is_no_error(url: str) -> None:
    done = shell(f"$S export grpo-1 --service-url {url} | true")
    assert (done.returncode, done.stderr) == (141, "")
