"""The commands as people and scripts use them: what they print, and one sentence where something is wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner, Result

from monitor.analysis.delta_commands import add_delta
from tests.analysis.delta.checkpoints import moved, save, tensor_bytes, weights
from tests.tiny import save_model, token_data


def run(*arguments: object) -> Result:
    app = typer.Typer()
    app.callback()(lambda: None)
    add_delta(app)
    return CliRunner().invoke(app, ["delta", *map(str, arguments)])


def said(*arguments: object) -> str:
    """What a command that works prints."""
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def refusal(*arguments: object) -> str:
    """The one line that a command ends with; its status is not 0, and it prints nothing else."""
    result = run(*arguments)
    assert result.exit_code != 0
    assert isinstance(result.exception, SystemExit), result.exception
    (sentence,) = result.output.splitlines()
    return sentence


@pytest.fixture(name="base")
def _base(tmp_path: Path) -> Path:
    return save(tmp_path / "base", weights(rows=5000))


@pytest.fixture(name="finetuned")
def _finetuned(base: Path, tmp_path: Path) -> Path:
    return save(tmp_path / "rl", moved(weights(rows=5000), 0.02))


def train(model: Path, output: Path) -> Path:
    """Three steps in bfloat16, and what they make of the model, saved as a Trainer does."""
    trained = AutoModelForCausalLM.from_pretrained(model, dtype="bfloat16")
    optimizer = torch.optim.AdamW(trained.parameters(), lr=1e-3)
    batch = token_data(4)
    for _ in range(3):
        ids = torch.tensor([row["input_ids"] for row in batch])
        trained(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    trained.save_pretrained(output, max_shard_size="60KB")
    AutoTokenizer.from_pretrained(model).save_pretrained(output)
    return output


def test_a_trained_model_is_loaded_from_its_base_and_the_delta(tmp_path: Path) -> None:
    base = save_model(tmp_path / "base", tied=True)
    finetuned = train(base, tmp_path / "rl")
    assert len(list(finetuned.glob("*.safetensors"))) > 1
    said("make", base, finetuned, "-o", tmp_path / "rl.delta")
    said("apply", base, tmp_path / "rl.delta", "-o", tmp_path / "again")
    wanted = AutoModelForCausalLM.from_pretrained(finetuned).state_dict()
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "again").state_dict()
    assert wanted.keys() == found.keys()
    assert all(tensor_bytes(wanted[name]) == tensor_bytes(found[name]) for name in wanted)
    tokens = [AutoTokenizer.from_pretrained(path)("what is two")["input_ids"] for path in (base, tmp_path / "again")]
    assert tokens[0] == tokens[1]
    files = {path.name: path.read_bytes() for path in finetuned.iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()} == files


def test_people_read_what_it_costs(base: Path, finetuned: Path, tmp_path: Path) -> None:
    delta = tmp_path / "rl.delta"
    made = said("make", base, finetuned, "-o", delta)
    assert f"wrote {delta}" in made
    assert "by stored bits (BF16; −0 is not 0)" in made
    info = said("info", delta)
    assert all(len(line) <= 80 for line in info.splitlines())
    for word in ("base", "rl", "config.json", "model.safetensors", "uncompressed"):
        assert word in info
    applied = said("apply", base, delta, "-o", tmp_path / "again")
    assert f"wrote 2 files to {tmp_path / 'again'}" in applied


def test_machines_read_json(base: Path, finetuned: Path, tmp_path: Path) -> None:
    delta = tmp_path / "rl.delta"
    made = json.loads(said("make", base, finetuned, "-o", delta, "--json"))
    info = json.loads(said("info", delta, "--json"))
    assert {**info, "seconds": made["seconds"]} == made
    figures = info["figures"]
    old, new = weights(rows=5000), moved(weights(rows=5000), 0.02)
    changed = {name: int((old[name].view(torch.int16) != new[name].view(torch.int16)).sum()) for name in old}
    sizes = {name: tensor.numel() for name, tensor in old.items()}
    assert figures["changed"] == sum(changed.values())
    assert figures["weights"] == sum(sizes.values())
    assert figures["dense_bytes"] == 2 * sum(sizes.values())
    assert figures["delta_bytes"] == delta.stat().st_size
    least = sum(min(6 * k, -(-sizes[name] // 8) + 2 * k, 2 * sizes[name]) for name, k in changed.items())
    assert figures["least_bytes"] == least
    assert figures["delta_bytes"] < least
    applied = json.loads(said("apply", base, delta, "-o", tmp_path / "again", "--json"))
    assert applied["checksum"] == info["finetuned"]["checksum"]
    assert applied["files"].keys() == {"model.safetensors", "config.json"}


def test_bad_input_ends_with_one_sentence(base: Path, finetuned: Path, tmp_path: Path) -> None:
    delta = tmp_path / "rl.delta"
    said("make", base, finetuned, "-o", delta)
    other = save(tmp_path / "other", weights(seed=7, rows=5000))
    empty = tmp_path / "empty"
    empty.mkdir()
    cut = save(tmp_path / "cut", weights(rows=5000)) / "model.safetensors"
    cut.write_bytes(cut.read_bytes()[:-10])
    before = sorted(tmp_path.iterdir())
    assert "other weights" in refusal("apply", other, delta, "-o", tmp_path / "again")
    assert "is there already" in refusal("apply", base, delta, "-o", finetuned)
    assert "no delta" in refusal("apply", base, finetuned / "config.json", "-o", tmp_path / "again")
    assert "no delta" in refusal("info", finetuned / "config.json")
    assert "No such file" in refusal("info", tmp_path / "nowhere")
    assert "no weights" in refusal("make", base, empty, "-o", tmp_path / "new.delta")
    assert "cut short" in refusal("make", base, cut.parent, "-o", tmp_path / "new.delta")
    assert "is no delta; it is kept" in refusal("make", base, finetuned, "-o", base / "model.safetensors")
    assert "is there already" in refusal("make", base, finetuned, "-o", empty)
    assert sorted(tmp_path.iterdir()) == before


def test_an_earlier_delta_is_replaced_and_only_by_a_whole_one(base: Path, finetuned: Path, tmp_path: Path) -> None:
    delta = tmp_path / "rl.delta"
    said("make", base, finetuned, "-o", delta)
    first = delta.read_bytes()
    shutil.rmtree(finetuned)
    refusal("make", base, finetuned, "-o", delta)
    assert delta.read_bytes() == first
    save(finetuned, moved(weights(rows=5000), 0.3))
    said("make", base, finetuned, "-o", delta)
    assert len(delta.read_bytes()) > len(first)


def test_text_of_others_does_not_act_on_the_terminal(base: Path, finetuned: Path, tmp_path: Path) -> None:
    (finetuned / "a\x1b[2J.txt").touch()
    assert "\x1b" not in said("make", base, finetuned, "-o", tmp_path / "rl.delta")


# Info needs no torch, and whoever reads it may have enough at any time.
_INFO = """
import sys
from monitor.cli import main
sys.argv = ["sparsity-monitor", "delta", "info", sys.argv[1], *sys.argv[2:]]
try:
    main()
finally:
    assert "torch" not in sys.modules
"""


def test_info_is_quick_and_does_not_mind_a_pipe_that_closes(base: Path, finetuned: Path, tmp_path: Path) -> None:
    said("make", base, finetuned, "-o", tmp_path / "rl.delta")
    command = [sys.executable, "-c", _INFO, str(tmp_path / "rl.delta"), "--json"]
    whole = subprocess.run(command, capture_output=True, text=True, check=True)
    assert whole.stderr == ""
    assert json.loads(whole.stdout)["base"]["source"] == "base"
    refused = subprocess.run([*command[:3], str(tmp_path)], capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == f"cannot read {str(tmp_path)!r}: Is a directory.\n"
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as closed:
        assert closed.stdout is not None
        assert closed.stderr is not None
        closed.stdout.close()
        assert closed.stderr.read() == ""
