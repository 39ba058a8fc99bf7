from __future__ import annotations

import re

import pytest

from monitor.service.quantities.labels import (
    criterion_label,
    group_labels,
    measured_as,
    metric_label_names,
    metric_labels,
)
from monitor.wire import monitor_pb2 as pb
from tests.service.messages import registration


def test_layers_are_padded_so_that_they_sort() -> None:
    layers = [pb.Group(layer=layer, module="m") for layer in (0, 7, 10)]
    assert [layer for layer, _ in group_labels(layers)] == ["00", "07", "10"]
    layers.append(pb.Group(layer=100, module="m"))
    assert [layer for layer, _ in group_labels(layers)] == ["000", "007", "010", "100"]


def test_layers_of_different_stacks_have_different_labels() -> None:
    layers = {"encoder": (0, 11), "decoder": (0, 100), "": (0, 7)}
    groups = [pb.Group(layer=n, module="m", stack=stack) for stack, numbers in layers.items() for n in numbers]
    groups.append(pb.Group(module="m"))
    assert [layer for layer, _ in group_labels(groups)] == [
        *("encoder 00", "encoder 11"),
        *("decoder 000", "decoder 100"),
        *("00", "07", "-"),
    ]


def test_layer_zero_is_not_outside_the_layers() -> None:
    assert group_labels([pb.Group(layer=0, module="m"), pb.Group(module="m")]) == [("00", "m"), ("-", "m")]


def test_a_sparsity_is_named_with_its_criterion_and_dtype() -> None:
    assert criterion_label(pb.Criterion(bits=pb.Criterion.Bits())) == "bits"
    assert criterion_label(pb.Criterion(atol=pb.Criterion.Atol(tolerance=1.5e-5))) == "atol=1.5e-05"
    assert measured_as(registration()) == "bits, bfloat16"


@pytest.mark.parametrize(
    "keys",
    [
        ["a b", "a-b", "a_b", "größe"],
        ["机器", "模型", "数据"],
        ["модель", "данные"],
        ["نموذج", "بيانات"],
        ["café", "cafe", "cafe\u0301"],
        ["🔥", "🚀", "→", "∇"],
        ["机", "u673a", "u673a_2"],
        ["ａ", "a", "１", "1"],
        ["", "_", " ", "\u3000"],
        ["a b", "a-b", "a_b_2"],
        ["\u202e", "\x00", "\n"],
        ["i", "İ", "ı"],
    ],
)
def test_labels_stay_apart_whatever_their_names(keys: list[str]) -> None:
    labels = metric_labels({key: str(number) for number, key in enumerate(keys)})
    assert sorted(labels.values(), key=int) == [str(number) for number in range(len(keys))]
    assert all(re.fullmatch("label_[a-zA-Z0-9_]*", name) for name in labels)


def test_a_label_of_another_script_has_a_name_of_its_own_in_every_run() -> None:
    alone = {key: metric_label_names([key])[key] for key in ("机器", "模型", "größe", "данные", "ａ１")}
    assert alone == metric_label_names(alone)
    assert alone == {
        "机器": "label_u673au5668",
        "模型": "label_u6a21u578b",
        "größe": "label_grou00dfe",
        "данные": "label_u0434u0430u043du043du044bu0435",
        "ａ１": "label_a1",
    }


def test_a_name_that_prometheus_takes_stays_as_it_is() -> None:
    assert metric_label_names(["seed", "GPU_2", "data.set"]) == {
        "GPU_2": "label_GPU_2",
        "data.set": "label_data_set",
        "seed": "label_seed",
    }
