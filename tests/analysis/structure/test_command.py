"""`sparsity-monitor structure` on checkpoints on disk: what it prints, writes, and refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from safetensors.torch import load_file, save_file

from monitor.analysis.structure.commands import add_structure
from tests.analysis.models import changed, dense_model, expert_model, saved
from tests.analysis.structure.arrays import exact, nasty_pair, rounded, sized_difference

Run = Callable[..., str]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.setenv("COLUMNS", "80")
    app = typer.Typer()
    app.callback()(lambda: None)
    add_structure(app)

    def call(*arguments: object) -> str:
        capsys.readouterr()  # what libraries said when a model was saved
        app(["structure", *map(str, arguments)], standalone_mode=False)
        return capsys.readouterr().out

    return call


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    directory = tmp_path_factory.mktemp("models")
    return saved(dense_model(), directory / "base"), saved(changed(dense_model()), directory / "tuned")


def in_files(directory: Path, base: dict[str, Any], tuned: dict[str, Any]) -> tuple[Path, Path]:
    for name, tensors in (("base", base), ("tuned", tuned)):
        save_file(tensors, directory / f"{name}.safetensors")
    return directory / "base.safetensors", directory / "tuned.safetensors"


def test_numbers_in_json_are_those_of_numpy(run: Run, models: tuple[Path, Path]) -> None:
    found = json.loads(run(*models, "--json"))

    before, after = dense_model().state_dict(), changed(dense_model()).state_dict()
    name = "model.layers.1.self_attn.q_proj.weight"
    (matrix,) = (each for each in found["matrices"] if each["name"] == name)
    base, tuned = (rounded(weights[name], torch.bfloat16) for weights in (before, after))
    sigma = np.linalg.svd(tuned - base, compute_uv=False)
    assert (matrix["layer"], matrix["module"], matrix["shape"]) == (1, "self_attn.q_proj", [16, 16])
    assert matrix["changed"] == (base != tuned).sum()
    assert matrix["squared_norm"] == pytest.approx((sigma**2).sum())
    assert matrix["spectrum"]["stable_rank"] == pytest.approx((sigma**2).sum() / sigma[0] ** 2, rel=1e-5)
    parameters = {name for name, _ in dense_model().named_parameters()}
    differ = [(rounded(before[each], torch.bfloat16), rounded(after[each], torch.bfloat16)) for each in parameters]
    assert found["total"]["weights"] == sum(base.size for base, _ in differ)
    assert found["total"]["changed"] == sum((base != tuned).sum() for base, tuned in differ)
    assert found["vectors"]["parameters"] == len([each for each in parameters if before[each].dim() == 1])
    assert found["measured_as"]["criterion"] == "bits"


def test_the_mean_rank_is_that_of_the_published_script(run: Run, tmp_path: Path) -> None:
    """As arXiv 2505.11711 has it: subtract in bfloat16, skip vectors and layer norms, rank ÷ the smaller side, mean."""
    base, tuned = dense_model(dtype=torch.bfloat16), changed(dense_model(dtype=torch.bfloat16), by=1.0)
    after = dict(tuned.named_parameters())
    shares = [
        int(torch.linalg.matrix_rank((after[name] - weights).float())) / min(weights.shape)
        for name, weights in base.named_parameters()
        if weights.dim() > 1 and "layernorm" not in name
    ]

    found = json.loads(run(saved(base, tmp_path / "base"), saved(tuned, tmp_path / "tuned"), "--json"))

    assert found["total"]["mean_rank_share"] == pytest.approx(np.mean(shares), abs=1e-12)
    assert found["total"]["matrices"] == len(shares)


def test_words_have_the_published_value_beside_them_and_fit_80_columns(run: Run, models: tuple[Path, Path]) -> None:
    printed = run(*models)

    flat = " ".join(printed.split())
    assert re.search(r"rank [\d.]+ % of the maximum \(published 99.2–99.8 % for DPO, PRIME, KTO and GRPO, arXiv", flat)
    assert re.search(r"16 largest singular values hold [\d.]+ % of the energy \(published about 27 %", flat)
    assert "Of matrices as small as these, 16 singular values say little" in flat
    assert "bits in bfloat16" in flat
    assert max(map(len, printed.splitlines())) <= 80


def test_numbers_beside_names_that_are_too_long_stay_in_one_piece(run: Run, models: tuple[Path, Path]) -> None:
    lines = run(*models, "--matrices").splitlines()
    assert max(map(len, lines)) <= 80
    (heading,) = [line for line in lines if line.startswith("matrix ")]
    assert heading.split() == ["matrix", "density", "rank", "top", "16", "stable", "rows", "cols", "small", "princ."]
    row = next(line for line in lines if line.startswith("model.embed"))
    assert row.split("%")[0].split()[-1][0].isdigit()
    assert not [line for line in lines if line.strip() == "%"]


def test_a_tolerance_is_compared_with_what_was_published_at_it(run: Run, models: tuple[Path, Path]) -> None:
    flat = " ".join(run(*models, "--criterion", "atol=1e-5").split())

    assert "atol=1e-05 in bfloat16" in flat
    assert "arXiv 2505.11711" in flat
    assert "Nothing comparable is published" in " ".join(run(*models, "--visible-dtype", "float16").split())


def test_nasty_weights_of_every_shape_are_counted_and_said(run: Run, tmp_path: Path) -> None:
    shapes = {"a.weight": (40, 30), "norm.weight": (64,), "empty.weight": (0, 4), "scale": (), "one": (1, 1)}
    pairs = {name: nasty_pair(shape, torch.float32, seed) for seed, (name, shape) in enumerate(shapes.items())}
    # Lies on disk as the transpose of what it is.
    pairs["b.weight"] = tuple(each.T for each in nasty_pair((20, 50), torch.float32, 9))  # type: ignore[assignment]
    for name, bad in (("base", 0), ("tuned", 1)):
        torch.save({key: pair[bad] for key, pair in pairs.items()}, tmp_path / f"{name}.bin")

    result = run(tmp_path / "base.bin", tmp_path / "tuned.bin", "--json")

    assert "NaN" not in result.replace("NaN or infin", "")
    total = json.loads(result)["total"]
    before, after = (
        np.concatenate([rounded(pair[side], torch.bfloat16).reshape(-1) for pair in pairs.values()]) for side in (0, 1)
    )
    delta = sized_difference(before, after)
    assert total["weights"] == before.size
    assert total["changed"] == (before != after).sum()
    assert total["without_size"] == ((before != after) & (delta == 0)).sum() > 0
    assert total["base_non_finite"] == (~np.isfinite(before)).sum() > 0
    assert total["squared_norm"] == pytest.approx((delta**2).sum(), rel=1e-9)
    assert exact(torch.tensor(total["relative_norm"])) > 0
    text = " ".join(run(tmp_path / "base.bin", tmp_path / "tuned.bin").split())
    assert f"{total['without_size']:,} weights differ by NaN or infinity" in text


def test_experts_are_measured_one_by_one(run: Run, tmp_path: Path) -> None:
    base, tuned = saved(expert_model(), tmp_path / "base"), saved(changed(expert_model()), tmp_path / "tuned")

    found = json.loads(run(base, tuned, "--only", "*experts*", "--json"))

    names = [matrix["name"] for matrix in found["matrices"]]
    assert [name for name in names if "layers.0" in name and "down_proj" in name] == [
        f"model.layers.0.mlp.experts.down_proj[{expert}]" for expert in range(3)
    ]
    assert all(matrix["spectrum"]["full_rank"] == 8 for matrix in found["matrices"] if "down" in matrix["name"])


def test_what_was_skipped_is_said(run: Run, models: tuple[Path, Path]) -> None:
    flat = " ".join(run(*models, "--max-size", 300, "--only", "*.layers.1.*").split())

    assert re.search(r"Skipped, not asked for: \d+ parameters of [\d,]+ weights, model.embed_tokens.weight", flat)
    assert re.search(r"Skipped, more than 300 weights: \d+ parameters of [\d,]+ weights, model.layers.1.mlp", flat)


def test_an_update_of_nothing_is_no_structure(run: Run, tmp_path: Path) -> None:
    weights = {"a.weight": torch.ones(4, 4)}

    result = run(*in_files(tmp_path, weights, weights))

    assert "No visible weight differs from the base (bits in bfloat16)." in " ".join(result.split())
    assert "as published" not in result


def test_the_page_has_the_words_the_tables_and_the_plots(run: Run, models: tuple[Path, Path], tmp_path: Path) -> None:
    page = tmp_path / "report.html"

    run(*models, "-o", page)

    text = page.read_text("utf-8")
    assert "<h2>In total</h2>" in text
    assert "published about 27 % for on-policy distillation" in text
    assert "model.layers.1.mlp.down_proj.weight" in text
    assert text.count("<svg") >= 5
    assert "<script" not in text


def test_profiles_are_written_in_full(run: Run, models: tuple[Path, Path], tmp_path: Path) -> None:
    run(*models, "--profiles", tmp_path / "profiles.safetensors")

    profiles = load_file(tmp_path / "profiles.safetensors")
    name = "model.layers.0.mlp.down_proj.weight"
    before, after = (
        rounded(model.state_dict()[name], torch.bfloat16) for model in (dense_model(), changed(dense_model()))
    )
    assert np.array_equal(profiles[f"{name}/rows"].numpy(), (before != after).sum(axis=1))
    assert np.array_equal(profiles[f"{name}/columns"].numpy(), (before != after).sum(axis=0))
    assert list(tmp_path.iterdir()) == [tmp_path / "profiles.safetensors"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--only", "nothing*"], r"none fits --only and --max-size"),
        (["--share", "1.5"], r"share is 1\.5; expected a share between 0 and 1"),
        (["--criterion", "most"], r"criterion is 'most'; expected"),
        (["--visible-dtype", "int4"], r"visible_dtype is 'int4'; expected one of bfloat16"),
        (["-o", "/nowhere/report.html"], r"--output is '/nowhere/report\.html', which cannot be written"),
    ],
)
def test_bad_input_ends_with_a_sentence(
    run: Run, models: tuple[Path, Path], arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match=sentence):
        run(*models, *arguments)

    assert capsys.readouterr().out == ""


def test_a_checkpoint_is_kept_where_its_file_is_given_for_a_result(run: Run, models: tuple[Path, Path]) -> None:
    weights, configuration = models[1] / "model.safetensors", models[1] / "config.json"
    before = weights.read_bytes(), configuration.read_bytes()
    with pytest.raises(SystemExit, match="no file of sparsity-monitor profiles; it is kept"):
        run(*models, "--profiles", weights)
    with pytest.raises(SystemExit, match=r"expected a name that ends in \.html"):
        run(*models, "-o", configuration)
    assert (weights.read_bytes(), configuration.read_bytes()) == before


def test_a_directory_without_a_checkpoint_is_refused(run: Run, models: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="has no weights"):
        run(models[0], tmp_path)
