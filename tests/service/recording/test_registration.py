from __future__ import annotations

from typing import Any

import pytest

from monitor.service.errors import (
    ContradictingRegistrationError,
    IncomparableAttemptError,
    InvalidRegistrationError,
    LimitError,
)
from monitor.service.recording.registration import check_agreement, check_registration
from monitor.service.settings import ServiceSettings
from monitor.wire import monitor_pb2 as pb
from tests.service.messages import groups, registration

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


def test_the_same_registration_twice_agrees() -> None:
    check_agreement(registration(), [registration()])


def test_a_contradiction_names_the_fields_that_differ_with_both_values() -> None:
    new = registration(name="another", labels={"algorithm": "dpo"})
    with pytest.raises(ContradictingRegistrationError) as refused:
        check_agreement(new, [registration()])
    assert "name ('a run' stored, 'another' given)" in str(refused.value)
    assert "labels" in str(refused.value)
    assert "grpo" in str(refused.value)
    assert "model" not in str(refused.value)


def test_a_contradiction_is_short_enough_for_a_status_message() -> None:
    long = registration(name="x" * 4000, model="y" * 4000, labels={"z" * 400: "z" * 4000})
    with pytest.raises(ContradictingRegistrationError) as refused:
        check_agreement(registration(), [long])
    assert len(str(refused.value)) < 1500


def _with_group(index: int, **changes: Any) -> list[pb.Group]:
    table = groups()
    table[index].MergeFrom(pb.Group(**changes))
    return table


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"groups": _with_group(1, weights=601)}, "groups[1]"),
        ({"groups": groups()[:2]}, "groups (3 entries stored, 2 given)"),
        ({"criterion": pb.Criterion(atol=pb.Criterion.Atol(tolerance=1e-5))}, "criterion"),
        ({"visible_dtype": "float32"}, "visible_dtype ('bfloat16' stored, 'float32' given)"),
        ({"base": pb.Base(fingerprint="def")}, "base.fingerprint ('abc123' stored, 'def' given)"),
    ],
)
def test_an_attempt_that_measures_something_else_needs_a_new_run_id(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(IncomparableAttemptError, match="use a new run id") as refused:
        check_agreement(registration(attempt=2, **changes), [registration()])
    assert named in str(refused.value)


def test_an_attempt_may_differ_in_what_leaves_counts_comparable() -> None:
    other = registration(
        attempt=2,
        name="renamed",
        model="/a/directory",
        base=pb.Base(source="/a/directory", fingerprint="abc123"),
        labels={},
        references=[],
        tolerances=[],
        library_versions={"torch": "3.0"},
        resumed_from_step=10,
        started_at=1.8e9,
    )
    check_agreement(other, [registration()])


def test_attempts_of_senders_with_and_without_stacks_are_of_one_run() -> None:
    named = [pb.Group.FromString(group.SerializeToString()) for group in groups()]
    for group in named[1:]:
        group.stack = "decoder"
    check_agreement(registration(attempt=2, groups=named), [registration()])
    check_agreement(registration(attempt=3), [registration(attempt=2, groups=named)])


def test_an_attempt_that_tells_apart_what_was_one_group_needs_a_new_run_id() -> None:
    before = [pb.Group(layer=0, module="mlp", weights=2)]
    now = [pb.Group(layer=0, module=f"{stack}.mlp", weights=1, stack=stack) for stack in ("encoder", "decoder")]
    with pytest.raises(IncomparableAttemptError, match=r"groups \(1 entries stored, 2 given\).*use a new run id"):
        check_agreement(registration(attempt=2, groups=now, references=[]), [registration(groups=before)])
