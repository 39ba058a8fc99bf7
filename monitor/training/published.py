"""What is published of trainings like this one, where the class of the trainer's arguments says what it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import TrainingArguments

_FINE_TUNING = "published supervised fine-tuning of all weights keeps 0.6–19 % by bits (arXiv 2511.08567)"
_REINFORCEMENT = "published RL with AdamW on all weights keeps 36–96 % (arXiv 2505.11711, 2511.08567)"
_DISTILLATION = (
    "published on-policy distillation into all weights keeps 51.6 % by bits (arXiv 2606.07082), 66.7–89.5 % at "
    "atol=1e-5 (arXiv 2606.13657)"
)

# By name, since most of these classes are experimental in TRL, and loaded only by those who use them. Preference
# optimisation is among the published RL checkpoints.
_OF_ARGUMENTS = {
    "SFTConfig": _FINE_TUNING,
    **dict.fromkeys(("AsyncGRPOConfig", "GRPOConfig", "OnlineDPOConfig", "PPOConfig", "RLOOConfig"), _REINFORCEMENT),
    **dict.fromkeys(("CPOConfig", "DPOConfig", "KTOConfig", "ORPOConfig"), _REINFORCEMENT),
    **dict.fromkeys(
        (
            "AsyncDistillationConfig",
            "DistillationConfig",
            "GKDConfig",
            "GOLDConfig",
            "IWOPDConfig",
            "SDFTConfig",
            "SDPOConfig",
        ),
        _DISTILLATION,
    ),
}


def published_about(args: TrainingArguments) -> str:
    """Return what is published of such trainings, as a clause; empty where the arguments do not tell what it is.

    A class that derives from another is what it says itself: GKDConfig is distillation, though it is an SFTConfig.
    """
    names = (kind.__name__ for kind in type(args).__mro__)
    known = next((_OF_ARGUMENTS[name] for name in names if name in _OF_ARGUMENTS), "")
    # The share of answers that the student writes itself: without any, the distillation is not on-policy.
    return "" if known is _DISTILLATION and getattr(args, "lmbda", 1) == 0 else known
