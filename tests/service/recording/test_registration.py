from __future__ import annotations

from typing import Any

import pytest

from monitor.service.errors import (
    InvalidRegistrationError,
    LimitError,
)
from monitor.service.recording.registration import check_registration
from monitor.service.settings import ServiceSettings
from monitor.wire import monitor_pb2 as pb
from tests.service.messages import registration

SETTINGS = ServiceSettings(
    max_groups=4, max_references=1, max_tolerances=2, max_labels=3, max_label_length=100, max_request_bytes=4096
)


def test_a_complete_registration_is_accepted() -> None:
    check_registration(registration(), SETTINGS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"run_id": ""}, "run_id '' was given"),
        ({"run_id": "a/b"}, "without '/'"),
        ({"run_id": "a\nb"}, "printable"),
        ({"run_id": "a\0b"}, "printable"),
        ({"run_id": ".."}, "run_id '..'"),
        ({"attempt": 0}, "attempts count up from 1"),
        ({"resumed_from_step": 2**63}, "resumed_from_step 9223372036854775808"),
        ({"started_at": float("nan")}, "started_at nan"),
        ({"started_at": -1.0}, "started_at -1"),
        ({"groups": []}, "no groups"),
        ({"groups": [pb.Group(weights=1)]}, "no module"),
        ({"groups": [pb.Group(module="a", weights=1)] * 2}, "given twice"),
        ({"groups": [pb.Group(layer=0, module="a", stack="encoder")] * 2}, "'encoder', 0, 'a'. was given twice"),
        ({"groups": [pb.Group(module="a", stack="encoder")]}, "has the stack 'encoder'; expected a layer of it"),
        ({"groups": [pb.Group(layer=0, module="a", stack=" encoder")]}, "no spaces around the name"),
        ({"groups": [pb.Group(module="a", weights=1, frozen_weights=2)]}, "2 frozen weights of 1"),
        ({"groups": [pb.Group(module="a", weights=2**63)], "references": []}, "a model that exists"),
        ({"references": [pb.Reference(name="", weights=[1, 1, 1])]}, "not empty"),
        ({"references": [pb.Reference(name="r", weights=[1, 1])]}, "2 counts; expected one per group, 3"),
        ({"references": [pb.Reference(name="r", weights=[1, 601, 1])]}, "601 weights in 'mlp', which has 600"),
        ({"criterion": pb.Criterion()}, "no criterion"),
        ({"criterion": pb.Criterion(atol=pb.Criterion.Atol(tolerance=-1))}, "finite numbers from 0"),
        ({"tolerances": [float("inf")]}, "finite numbers from 0"),
        ({"tolerances": [1e-5, 1e-5]}, "each only once"),
        ({"visible_dtype": "int8"}, "visible_dtype 'int8' was given; expected one of bfloat16"),
    ],
)
def test_a_wrong_field_is_refused_with_what_was_expected(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRegistrationError, match=message):
        check_registration(registration(**changes), SETTINGS)


@pytest.mark.parametrize(
    ("changes", "limit"),
    [
        ({"groups": [pb.Group(layer=layer, module="a", weights=1) for layer in range(5)]}, "max_groups"),
        ({"references": [pb.Reference(name=name, weights=[1, 1, 1]) for name in "ab"]}, "max_references"),
        ({"tolerances": [1, 2, 3]}, "max_tolerances"),
        ({"labels": dict.fromkeys("abcd", "x")}, "max_labels"),
        ({"library_versions": dict.fromkeys(map(str, range(33)), "x")}, "max_labels"),
        ({"stored_dtypes": [str(number) for number in range(33)]}, "max_labels"),
        ({"run_id": "x" * 101}, "max_label_length"),
        ({"name": "x" * 101}, "max_label_length"),
        ({"model": "x" * 101}, "max_label_length"),
        ({"labels": {"x" * 101: "y"}}, "max_label_length"),
        ({"labels": {"y": "x" * 101}}, "max_label_length"),
        ({"base": pb.Base(source="x" * 101)}, "max_label_length"),
        ({"base": pb.Base(fingerprint="x" * 101)}, "max_label_length"),
        ({"base": pb.Base(mode="x" * 101)}, "max_label_length"),
        ({"groups": [pb.Group(module="x" * 101, weights=1)]}, "max_label_length"),
        ({"groups": [pb.Group(layer=0, module="x", stack="x" * 101)]}, "max_label_length"),
        ({"references": [pb.Reference(name="x" * 101, weights=[1, 1, 1])]}, "max_label_length"),
    ],
)
def test_what_is_too_large_is_refused_with_the_option_that_allows_it(changes: dict[str, Any], limit: str) -> None:
    with pytest.raises(LimitError, match="this service allows") as refused:
        check_registration(registration(**changes), SETTINGS)
    assert refused.value.limit == limit
    assert f"--{limit.replace('_', '-')}" in str(refused.value)


def test_modules_of_the_same_name_in_two_stacks_are_two_groups() -> None:
    stacks = [pb.Group(layer=0, module="mlp", weights=1, stack=stack) for stack in ("encoder", "decoder")]
    check_registration(registration(groups=stacks, references=[]), SETTINGS)
