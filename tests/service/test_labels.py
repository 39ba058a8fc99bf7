from __future__ import annotations

from monitor.service.labels import criterion_label, group_labels, measured_as, metric_labels
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


def test_labels_that_would_fall_together_stay_apart() -> None:
    labels = metric_labels({"a b": "1", "a-b": "2", "a_b": "3", "größe": "4"})
    assert sorted(labels.values()) == ["1", "2", "3", "4"]
    assert set(labels) == {"label_a_b", "label_a_b_2", "label_a_b_3", "label_gr__e"}
