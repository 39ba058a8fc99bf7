"""`sparsity-monitor mask …` as a user sees it: in a terminal of 80 columns, in a pipe, and with bad input."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from safetensors.torch import save_file
from typer.testing import CliRunner

from monitor.analysis.masks.commands import mask_commands
from monitor.observe.masks.mask import UpdateMask
from tests.analysis.masks.mask_files import MEASURED, Bools, load, random_bools, save
from tests.analysis.models import changed, dense_model, saved


def run(*arguments: object) -> Result:
    return CliRunner(env={"COLUMNS": "80"}).invoke(mask_commands, [str(each) for each in arguments])


def succeed(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return str(result.stdout)


def masks_in(directory: Path, count: int = 2) -> list[Path]:
    return [save(directory / f"{seed}.safetensors", random_bools(seed)) for seed in range(count)]


def strict(text: str) -> Any:
    """Read JSON that has no NaN, which is none."""
    return json.loads(text, parse_constant=pytest.fail)


def test_two_masks_are_compared_in_eighty_columns(tmp_path: Path) -> None:
    said = succeed("overlap", *masks_in(tmp_path), "--random-control", "--seed", 3)
    lines = said.splitlines()
    assert max(len(line) for line in lines if str(tmp_path) not in line) <= 80
    assert "bits/bfloat16, step 7, run run" in said
    for word in (
        "o₁ = |A∩B| / |A|",
        "chance, by matrix",
        "z-score",
        "self_attn.q_proj",
        "(seed 3)",
        "60.5 %",
        "Overlap",
    ):
        assert word in said
    # Of the layer that has weights in neither mask.
    assert [line.split()[0] for line in lines if line.startswith(("00 ", "11 ", "- "))] == ["00", "11", "-"]


def test_json_has_all_of_it_and_null_where_nothing_can_be_divided(tmp_path: Path) -> None:
    a, b, c = masks_in(tmp_path, 3)
    found = strict(succeed("overlap", a, b, c, "--json", "--random-control"))
    assert [(pair["a"], pair["b"]) for pair in found["pairs"]] == [("A", "B"), ("A", "C"), ("B", "C")]
    pair = found["pairs"][0]
    bools = [np.concatenate([bits.ravel() for bits in load(path).values()]) for path in (a, b)]
    assert pair["intersection"] == (bools[0] & bools[1]).sum()
    assert pair["chance"]["whole"]["o1"] == pytest.approx(bools[1].mean(), rel=1e-12)
    assert pair["random_control"]["intersection"] > 0
    assert [part["layer"] for part in pair["layers"]] == ["00", "11", "-"]
    assert found["masks"][0]["density"] == pytest.approx(bools[0].mean(), rel=1e-12)
    empty = save(tmp_path / "empty.safetensors", random_bools(1, 0.0))
    assert strict(succeed("overlap", a, empty, "--json"))["pairs"][0]["o2"] is None


def test_many_masks_are_compared_pair_by_pair(tmp_path: Path) -> None:
    said = succeed("overlap", *masks_in(tmp_path, 4))
    pairs = [line.split()[:2] for line in said.splitlines() if line[:3] in {"A B", "A C", "A D", "B C", "B D", "C D"}]
    # The title of the table is among them.
    assert pairs[1:] == [["A", "B"], ["A", "C"], ["A", "D"], ["B", "C"], ["B", "D"], ["C", "D"]]


def test_a_report_is_written_beside_what_is_printed(tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    assert f"Report: {report}" in succeed("overlap", *masks_in(tmp_path, 3), "-o", report)
    page = report.read_text()
    # Two matrices, and the layers of three pairs.
    assert page.count("<svg") == 5
    for word in ("whose weights", "in which mask they lie", "2505.11711", "not which weights are needed", "B and C"):
        assert word in page
    assert "nan" not in page


def test_updates_are_compared_where_their_weights_are_given(tmp_path: Path) -> None:
    base = saved(dense_model(), tmp_path / "base")
    start = dict(dense_model().named_parameters())
    paths, checkpoints = [], []
    for name, by in (("one", 0.05), ("other", -0.05)):
        model = changed(dense_model(), by=by)
        checkpoints.append(saved(model, tmp_path / name))
        visible = {n: (p.bfloat16(), start[n].bfloat16()) for n, p in model.named_parameters()}
        mask = UpdateMask.from_bools({n: after != before for n, (after, before) in visible.items()}, MEASURED)
        paths.append(tmp_path / f"{name}.safetensors")
        mask.save(paths[-1])
    weights = ["--base", base, "--finetuned", checkpoints[0], "--finetuned", checkpoints[1]]
    found = strict(succeed("overlap", *paths, *weights, "--json"))["pairs"][0]["updates"]
    # The same weights were moved the other way.
    assert found["sign_agreement"] == 0.0
    assert found["moved_in_both"] > 100
    assert found["cosine"] == pytest.approx(-1.0, abs=0.05)
    said = " ".join(succeed("overlap", *paths, *weights).split())
    assert "0.00 % moved the same way; a coin gives 50 %." in said
    assert "Cosine of the updates: -0.9" in said
    swapped = run("overlap", *reversed(paths), *weights)
    assert swapped.exit_code == 1
    assert "is not the mask of the weights that were given for it" in swapped.output


def test_masks_that_were_measured_otherwise_are_noted_on_standard_error(tmp_path: Path) -> None:
    other = save(tmp_path / "other.safetensors", random_bools(5), replace(MEASURED, base_fingerprint="cd" * 16))
    result = run("overlap", masks_in(tmp_path)[0], other, "--json")
    assert result.exit_code == 0
    assert result.stderr.startswith("Note: the masks were taken against different bases")
    assert strict(result.stdout)["warnings"]


def test_a_mask_says_where_it_comes_from_and_how_dense_it_is(tmp_path: Path) -> None:
    (mask,) = masks_in(tmp_path, 1)
    said = succeed("info", mask)
    assert "bits/bfloat16, step 7, run run" in said
    found = strict(succeed("info", mask, "--json"))
    bools = load(mask)
    assert found["ones"] == sum(bits.sum() for bits in bools.values())
    assert (found["base_fingerprint"], found["step"]) == ("ab" * 16, 7)
    where = {part["module"]: part["ones"] for part in found["modules"]}
    assert where["embed_tokens"] == bools["model.embed_tokens.weight"].sum()


def combined(*masks: Bools) -> dict[str, np.ndarray]:
    return {name: np.stack([bools[name] for bools in masks]) for name in masks[0]}


def test_masks_are_combined(tmp_path: Path) -> None:
    paths = masks_in(tmp_path, 3)
    output = tmp_path / "made.safetensors"
    stacked = combined(*map(load, paths))
    for arguments, expected in (
        (["union"], lambda bits: bits.any(axis=0)),
        (["intersection"], lambda bits: bits.all(axis=0)),
        (["difference"], lambda bits: bits[0] & ~bits[1] & ~bits[2]),
        (["consensus", "--at-least", 2], lambda bits: bits.sum(axis=0) >= 2),
    ):
        said = succeed(*arguments, *paths, "-o", output)
        made = load(output)
        assert all(np.array_equal(made[name], expected(bits)) for name, bits in stacked.items())
        assert f"{sum(bits.sum() for bits in made.values()):,} of " in said
        assert "(bits/bfloat16). By chance" in said
        told = strict(succeed(*arguments, *paths, "-o", output, "--json"))
        assert told["ones"] == sum(bits.sum() for bits in made.values())
        assert told["weights"] == sum(bits.size for bits in made.values())
    assert "in at least 2 of 3" in succeed("info", output)


def test_a_mask_may_take_the_place_of_one_that_it_is_made_of(tmp_path: Path) -> None:
    a, b = masks_in(tmp_path)
    expected = combined(load(a), load(b))
    succeed("union", a, b, "-o", a)
    assert all(np.array_equal(bits, expected[name].any(axis=0)) for name, bits in load(a).items())


def test_masks_are_converted_both_ways(tmp_path: Path) -> None:
    (mask,) = masks_in(tmp_path, 1)
    succeed("convert", mask, tmp_path / "booleans.npz")
    back = tmp_path / "back.safetensors"
    said = succeed("convert", tmp_path / "booleans.npz", back, "--criterion", "atol=1e-5", "--visible-dtype", "float32")
    assert "Measured by: atol=1e-05/float32." in said
    told = strict(succeed("convert", mask, tmp_path / "again.npz", "--json"))
    assert told["bytes"] == (tmp_path / "again.npz").stat().st_size
    assert UpdateMask.load(back).metadata.criterion == "atol=1e-05"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["overlap", "A"], "1 mask is given; expected two or more"),
        (["overlap", "A", "nowhere"], "cannot read a mask from .*nowhere.*No such file"),
        (["overlap", "A", "text"], "cannot read a mask from .*text"),
        (["overlap", "A", "B", "-o", "x.safetensors"], "expected a name that ends in .html"),
        (["overlap", "A", "B", "-o", "nowhere/x.html"], "--output is .*nowhere/x.html', which cannot be written"),
        (["overlap", "A", "B", "--base", "x"], "2 masks, a --base and 0 --finetuned are given"),
        (["overlap", "A", "B", "--finetuned", "x", "--finetuned", "y"], "no --base and 2 --finetuned"),
        (["overlap", "A", "B", "--base", "x", "--finetuned", "y", "--finetuned", "z"], "'y' is no directory"),
        (["union", "A", "-o", "x.safetensors"], "expected two or more to combine"),
        (["union", "A", "B", "-o", "x.pt"], "expected a name that ends in .safetensors"),
        (["consensus", "A", "B", "--at-least", "3", "-o", "x.safetensors"], "no weight can be in it"),
        (["convert", "nowhere.pt", "x.npz"], "'nowhere.pt' is no file; expected a mask"),
        (["info", "."], "cannot read a mask from '.': it is a directory"),
        (["convert", "A", "x.csv"], "ends in none of"),
        (["convert", "A", "x.npz", "--criterion", "bits"], "says its own"),
        (
            ["union", "A", "B", "-o", "nowhere/x.safetensors"],
            "--output is .*nowhere.*, which cannot be written",
        ),
        (["union", "A", "B", "-o", "model.safetensors"], "is no mask; it is kept as it is"),
        (["make", "random:0.1", "model.safetensors", "-o", "model.safetensors"], "is no mask; it is kept as it is"),
        (["make", "random:0.1", "model.safetensors", "-o", "nowhere/x.safetensors"], "which cannot be written"),
        (["convert", "A", "numbers.pt"], "the target is 'numbers.pt', which is there already; it is kept as it is"),
        (["convert", "A", "nowhere/x.npz"], "the target is 'nowhere/x.npz', which cannot be written"),
        (["convert", "numbers.pt", "x.npz"], "expected a name that ends in .safetensors"),
        (["convert", "numbers.pt", "x.safetensors"], "neither 0 nor 1, such as 0.5"),
        (["info", "text"], "cannot read a mask from"),
    ],
)
def test_bad_input_ends_in_a_sentence_and_leaves_nothing(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save(Path("A"), random_bools(1))
    save(Path("B"), random_bools(2))
    Path("text").write_text("no mask")
    torch.save({"w": torch.tensor([0.5])}, "numbers.pt")
    save_file({"w": torch.ones(64)}, "model.safetensors")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*")}
    result = run(*arguments)
    assert result.exit_code == 1
    assert re.search(message, " ".join(result.output.split()))
    assert "Traceback" not in result.output
    assert {path: path.read_bytes() for path in tmp_path.rglob("*")} == before


def test_names_of_files_cannot_act_on_a_terminal(tmp_path: Path) -> None:
    mask = save(tmp_path / "\x1b[2J.safetensors", random_bools(1), replace(MEASURED, run_id="[red]\x1b[2J"))
    for said in (succeed("info", mask), succeed("overlap", mask, mask), run("info", f"{mask}.nowhere").output):
        assert "\x1b" not in said
    assert "[red]" in succeed("info", mask)
