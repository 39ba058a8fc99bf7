"""Trainings of a part of the weights: which part, and how the others are kept."""

import math
from pathlib import Path

import torch
from torch import nn
from transformers import Trainer

from monitor import SubnetworkCallback, UpdateMask
from monitor.analysis.masks.random_control import random_words
from paper.experiments import Subnetwork
from paper.results import MASK_FILE


def mask_to_train(only: Subnetwork, model: nn.Module, output: Path) -> UpdateMask:
    """Return the mask of the weights that are to be trained."""
    if not only.of:
        return random_mask({name: tuple(weights.shape) for name, weights in model.named_parameters()}, only)
    changed = UpdateMask.load(output / only.of / MASK_FILE)
    return random_control(changed, only.seed) if only.random else changed


def random_mask(shapes: dict[str, tuple[int, ...]], only: Subnetwork) -> UpdateMask:
    """Return a mask that has each weight with the same probability."""
    chance = torch.Generator().manual_seed(only.seed)
    return UpdateMask.from_bools(
        {name: torch.rand(shape, generator=chance) < only.share for name, shape in shapes.items()}
    )


def random_control(mask: UpdateMask, seed: int) -> UpdateMask:
    """Return a mask with as many ones in each matrix, but at random places."""
    words = {
        name: random_words(math.prod(mask.shapes[name]), count, (seed, 0, name))
        for name, count in mask.counts().items()
    }
    return UpdateMask(words, mask.shapes)


def train_only(mask: UpdateMask, trainer: Trainer) -> None:
    """Let a trainer change the weights of a mask and no others."""
    trainer.add_callback(SubnetworkCallback(mask))
