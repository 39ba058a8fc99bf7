from __future__ import annotations

from typing import Any

import pytest

from monitor.service.errors import ContradictingRegistrationError, IncomparableAttemptError
from monitor.service.storage.agreement import check_agreement
from monitor.wire import monitor_pb2 as pb
from tests.service.messages import groups, registration


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
