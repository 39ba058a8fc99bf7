"""`sparsity-monitor mask make`: the file has the bits that a training makes of the same base."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from transformers import Qwen2ForCausalLM, Qwen3MoeForCausalLM
from typer.testing import CliRunner

from monitor.analysis.masks.commands import mask_commands
from monitor.observe.masks.mask import UpdateMask
from monitor.observe.observer import UpdateObserver
from tests.analysis.models import changed, dense_model, expert_model, saved
from tests.observe.masks.ordered import structural_bools

TEXTS = ("lowest:0.1", "random:0.25")


def make(*arguments: object) -> Result:
    return CliRunner(env={"COLUMNS": "80"}).invoke(mask_commands, ["make", *map(str, arguments)])


@pytest.mark.parametrize(
    ("model", "kind"),
    [(dense_model(tied=True), Qwen2ForCausalLM), (expert_model(), Qwen3MoeForCausalLM)],
    ids=["tied", "experts"],
)
def test_a_mask_of_a_checkpoint_is_the_one_that_a_training_makes(model: Any, kind: Any, tmp_path: Path) -> None:
    base = saved(model, tmp_path / "base")
    trained = kind.from_pretrained(base)
    weights = {name: p.detach().bfloat16() for name, p in trained.named_parameters()}
    files = {}
    for text in TEXTS:
        path = tmp_path / f"{text.partition(':')[0]}.safetensors"
        result = make(text, base, "-o", path)
        assert result.exit_code == 0, result.output
        files[text] = UpdateMask.load(path)
        assert files[text].shapes == {name: tuple(each.shape) for name, each in weights.items()}
        for name, each in weights.items():
            expected = structural_bools(text, name, each)
            assert np.array_equal(files[text].bools(name).reshape(-1).numpy(), expected), name
    # The file as a reference, and the text, count alike, and nothing is said of another base.
    references = {**{f"file {text}": mask for text, mask in files.items()}, **{text: text for text in TEXTS}}
    observer = UpdateObserver(trained, references=references)
    assert files["lowest:0.1"].metadata.base_fingerprint == observer.base_fingerprint
    changed(trained)
    observation = observer.observe(1)
    for text in TEXTS:
        assert observation.overlap(text) == observation.overlap(f"file {text}")
        assert observation.overlap(text).intersection > 0


def test_what_was_made_is_said(tmp_path: Path) -> None:
    base, output = saved(dense_model(), tmp_path / "base"), tmp_path / "low.safetensors"
    result = make("lowest:0.1", base, "-o", output, "--visible-dtype", "float32")
    assert result.exit_code == 0, result.output
    mask = UpdateMask.load(output)
    said = f"{output}: lowest:0.1 of the float32 weights of {base}, {mask.count():,} of {mask.weights:,} weights"
    assert result.stdout.startswith(said)
    told = json.loads(make("lowest:0.1", base, "-o", output, "--json").stdout)
    assert (told["ones"], told["weights"]) == (mask.count(), mask.weights)
    # What `mask info` shows of it.
    info = CliRunner(env={"COLUMNS": "200"}).invoke(mask_commands, ["info", str(output)])
    assert "lowest:0.1" in info.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("highest:0.1", "BASE", "-o", "m.safetensors"),
            "'highest:0.1' is no structural mask; expected such as lowest",
        ),
        (("lowest:0", "BASE", "-o", "m.safetensors"), "the structural mask 'lowest:0' has the share '0'; expected"),
        (("lowest:0.1", "BASE", "-o", "mask.pt"), "would be a mask file; expected a name that ends in .safetensors"),
        (("lowest:0.1", "BASE", "-o", "m.safetensors", "--visible-dtype", "int8"), "visible_dtype is 'int8'; expected"),
        (
            ("lowest:0.1", "/nothing/here", "-o", "m.safetensors"),
            "'/nothing/here' is no directory, no file and no hub id",
        ),
    ],
)
def test_bad_input_is_answered_by_a_sentence_and_leaves_nothing(
    arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    saved(dense_model(), tmp_path / "BASE")
    result = make(*arguments)
    assert result.exit_code != 0
    assert message in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["BASE"]


def test_a_checkpoint_that_is_cut_short_leaves_the_mask_that_was_there(tmp_path: Path) -> None:
    base, output = saved(dense_model(), tmp_path / "base"), tmp_path / "low.safetensors"
    assert make("random:0.1", base, "-o", output).exit_code == 0
    before = output.read_bytes()
    weights = base / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    result = make("lowest:0.1", base, "-o", output)
    assert result.exit_code != 0
    assert len(result.output.strip().splitlines()) == 1
    assert output.read_bytes() == before
