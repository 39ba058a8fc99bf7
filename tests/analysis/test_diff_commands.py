"""`sparsity-monitor diff` as a person meets it: what it prints and writes, and one sentence for bad input."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from monitor.analysis.diff.spill import MaskSpill
from monitor.analysis.diff_commands import add_diff
from monitor.observe.masks.file import write_mask
from monitor.observe.masks.mask import UpdateMask
from tests.analysis.models import changed, dense_model, expert_model, saved


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    directory = tmp_path_factory.mktemp("pair")
    return saved(dense_model(), directory / "base"), saved(changed(dense_model()), directory / "tuned")


def run(*arguments: object) -> Result:
    app = typer.Typer()
    app.callback()(lambda: None)
    add_diff(app)
    return CliRunner().invoke(app, ["diff", *map(str, arguments)], env={"COLUMNS": "80"})


def test_people_get_totals_and_tables_that_fit_a_terminal(pair: tuple[Path, Path], tmp_path: Path) -> None:
    result = run(*pair, "--full", "-o", tmp_path / "report.html")
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert all(len(line) <= 80 for line in lines[2:] if not line.startswith("written"))
    assert "compared    4,496 weights of 26 parameters" in lines
    counts = json.loads(run(*pair, "--json").output)
    (total,) = [line.split() for line in lines if line.startswith("bits, bfloat16")]
    assert total[-1] == f"{counts['changed']:,}"
    assert float(total[2]) == pytest.approx(100 * (1 - counts["changed"] / counts["weights"]), abs=0.005)
    for heading in ("By module", "By layer", "By group"):
        assert any(line.startswith(heading) and "bits, and at tolerances; bfloat16" in line for line in lines), heading
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") == 2
    assert f"{counts['changed']:,}" in page


def test_programs_get_every_count_and_the_groups_add_up(pair: tuple[Path, Path]) -> None:
    found = json.loads(run(*pair, "--json", "--visible-dtype", "float32", "--tolerances", "1e-3").output)
    assert (found["criterion"], found["visible_dtype"], found["tolerances"]) == ("bits", "float32", [1e-3])
    for rows in (found["groups"], found["parameters"]):
        for column in ("weights", "changed", "hidden", "non_finite"):
            assert sum(row[column] for row in rows) == found[column], column
        assert sum(row["changed_at"]["0.001"] for row in rows) == found["changed_at"]["0.001"] < found["changed"]
    assert found["tied"] == {"lm_head.weight": "model.embed_tokens.weight"}


def test_the_criterion_is_that_of_the_callback(pair: tuple[Path, Path], tmp_path: Path) -> None:
    mask = tmp_path / "mask.safetensors"
    found = json.loads(run(*pair, "--json", "--criterion", "atol=1e-3", "--tolerances", "1e-3", "--mask", mask).output)
    assert found["changed"] == found["changed_at"]["0.001"] == UpdateMask.load(mask).count()
    assert UpdateMask.load(mask).metadata.criterion == "atol=0.001"
    assert found["base_fingerprint"] == UpdateMask.load(mask).metadata.base_fingerprint


def _truncated(base: Path, tuned: Path, scratch: Path) -> list[object]:
    saved(dense_model(), scratch)
    data = (scratch / "model.safetensors").read_bytes()
    (scratch / "model.safetensors").write_bytes(data[: len(data) // 2])
    return [base, scratch]


def _no_weights(base: Path, tuned: Path, scratch: Path) -> list[object]:
    scratch.mkdir()
    return [scratch, tuned]


def test_a_parameter_without_weights_is_not_called_frozen(tmp_path: Path) -> None:
    for name, value in (("base", 1.0), ("tuned", 2.0)):
        weights = {"empty.weight": torch.empty(0, 4), "a.weight": torch.full((4, 4), value)}
        save_file(weights, tmp_path / f"{name}.safetensors")
    said = run(tmp_path / "base.safetensors", tmp_path / "tuned.safetensors").output
    (row,) = [line.split() for line in said.splitlines() if line.startswith("empty")]
    assert row[1:3] == ["0", "–"]


def _packed(base: Path, tuned: Path, scratch: Path) -> list[object]:
    scratch.mkdir()
    weights = load_file(base / "model.safetensors")
    packed = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in weights.items()}
    save_file(packed, scratch / "model.safetensors")
    (scratch / "config.json").write_text((base / "config.json").read_text())
    return [base, scratch]


BAD: dict[str, tuple[Callable[[Path, Path, Path], list[object]], str]] = {
    "twice": (lambda base, tuned, scratch: [base, base], "was given twice"),
    "architecture": (
        lambda base, tuned, scratch: [base, saved(expert_model(), scratch)],
        "is another model than",
    ),
    "truncated": (_truncated, "is cut short"),
    "no weights": (_no_weights, "has no weights; expected one of"),
    "dtype": (_packed, "cannot be compared one by one"),
    "no directory": (lambda base, tuned, scratch: [base, "runs/of/nothing"], "no directory, no file and no hub id"),
    "offline": (
        lambda base, tuned, scratch: [base, "nobody/nothing"],
        "not in the local cache, and the hub is not asked",
    ),
    "output": (
        lambda base, tuned, scratch: [base, tuned, "-o", scratch / "r.html"],
        "--output is .* cannot be written",
    ),
    "a checkpoint as the mask": (
        lambda base, tuned, scratch: [base, tuned, "--mask", tuned / "model.safetensors"],
        "is no mask; it is kept as it is",
    ),
    "a configuration as the report": (
        lambda base, tuned, scratch: [base, tuned, "-o", tuned / "config.json"],
        r"ends in \.html",
    ),
    "a name too long": (lambda base, tuned, scratch: ["/" + 300 * "a", tuned], "^cannot read .*too long"),
    "no name": (lambda base, tuned, scratch: ["", tuned], "is empty; expected the directory"),
    "mask": (lambda base, tuned, scratch: [base, tuned, "--mask", base], "ends in .safetensors"),
    "criterion": (lambda base, tuned, scratch: [base, tuned, "--criterion", "l2"], 'expected "bits" or "atol=1e-5"'),
    "tolerances": (
        lambda base, tuned, scratch: [base, tuned, "--tolerances", "1e-5;1"],
        "expected numbers with commas",
    ),
    "visible": (lambda base, tuned, scratch: [base, tuned, "--visible-dtype", "int8"], "expected one of bfloat16"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_ends_in_one_sentence(
    case: str, pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    make, message = BAD[case]
    arguments = make(*pair, tmp_path / "scratch")
    before, checkpoints = sorted(tmp_path.rglob("*")), _bytes_of(*pair)
    result = run(*arguments)
    assert result.exit_code == 1
    # What sys.exit is given goes to standard error; the runner puts it with the rest.
    (line,) = result.output.strip().splitlines()
    assert re.search(message, line), line
    assert sorted(tmp_path.rglob("*")) == before
    assert _bytes_of(*pair) == checkpoints


def _bytes_of(*directories: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for directory in directories for path in directory.iterdir()}


def test_a_full_disk_is_said_and_leaves_the_mask_that_was_there(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: MaskSpill, words: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(MaskSpill, "append", full)
    mask = tmp_path / "mask.safetensors"
    write_mask(mask, [], {}, {})
    before = mask.read_bytes()
    result = run(*pair, "--mask", mask)
    assert result.exit_code == 1
    assert "cannot write" in result.output
    assert "No space left on device" in result.output
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before]
