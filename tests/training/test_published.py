"""What verdicts name of published trainings, for the trainers of TRL and the plain one."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainingArguments
from trl import DPOConfig, GRPOConfig, RewardConfig, SFTConfig

from monitor.published import DISTILLATION_CUMULATIVE, RL_CUMULATIVE, SFT_CUMULATIVE
from monitor.training.published import published_about

with warnings.catch_warnings():
    # TRL says that these may change.
    warnings.simplefilter("ignore")
    gkd = pytest.importorskip("trl.experimental.gkd")
    sdft = pytest.importorskip("trl.experimental.sdft")


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        (SFTConfig, {}, f"published supervised fine-tuning of all weights keeps {SFT_CUMULATIVE} by bits"),
        (GRPOConfig, {}, f"published RL with AdamW on all weights keeps {RL_CUMULATIVE}"),
        (DPOConfig, {}, f"published RL with AdamW on all weights keeps {RL_CUMULATIVE}"),
        (gkd.GKDConfig, {}, f"into all weights keeps {100 * DISTILLATION_CUMULATIVE.low:g} % by bits"),
        (sdft.SDFTConfig, {}, "published on-policy distillation"),
        # The student never writes answers of its own.
        (gkd.GKDConfig, {"lmbda": 0.0}, ""),
        (RewardConfig, {}, ""),
        (TrainingArguments, {}, ""),
    ],
)
def test_the_band_is_that_of_the_kind_of_training(
    kind: type[TrainingArguments], settings: dict[str, Any], words: str, tmp_path: Path
) -> None:
    about = published_about(kind(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to=[], **settings))
    assert (words in about) if words else about == ""


def test_arguments_of_ones_own_are_what_they_derive_from(tmp_path: Path) -> None:
    class MyConfig(GRPOConfig):  # type: ignore[misc]
        pass

    assert "RL" in published_about(MyConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to=[]))
