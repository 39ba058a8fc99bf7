from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.service.recording.judging import Judge
from monitor.service.recording.received import Received
from monitor.service.settings import ServiceSettings
from monitor.wire import monitor_pb2 as pb
from tests.service.messages import finished, logged, observed, registration

SETTINGS = ServiceSettings(max_training_metrics=2)
JUDGE = Judge(registration(), SETTINGS)

# Of one observation: what is measured, what is not, what cannot be, and what other ways of adding up it takes.
CHANGES: list[dict[str, Any]] = [
    {},
    {"squared_norm": [0.1, 0.2, 0.3], "max_abs": [0.1, 2.5, 0.0]},
    {"squared_norm": [], "max_abs": []},
    {"squared_norm": [1.7e308, 1.7e308, 0.0]},
    {"base_squared_norm": [0.7, 1e9, 0.1]},
    {"changed": [900, 30, 20], "touched": [1000, 100, 0]},
    {"step_changed": [1000, 600, 400]},
    {"trained": [0, 300, 200], "unmeasured": [1000, 300, 200]},
    {"trained": [0, 600, 400], "unmeasured": [0, 0, 0]},
    {"trained": [1000, 600, 400]},
    {"synchronisation": None},
    {"synchronisation": pb.Synchronisation(step=1)},
    {"synchronisation": pb.Synchronisation(step=1, changed=[1, 2, 3])},
    {"references": []},
    {"references": [pb.ReferenceCounts()]},
    {"references": [pb.ReferenceCounts(intersection=[1, 2, 3])]},
    {"changed_at": []},
    {"changed_at": [pb.Counts(), pb.Counts(weights=[1, 2, 3])]},
    {"changed": [1, 601, 1]},
    {"changed": [1, 1]},
    {"changed": [1, 1], "touched": [1, 1, 1, 1]},
    {"max_abs": [1, 1, float("nan")]},
    {"trained": [0, 601, 400]},
    {"changed_at": [pb.Counts()]},
    {"references": [pb.ReferenceCounts(intersection=[0, 61, 0])]},
    {"synchronisation": pb.Synchronisation(step=2, previous_step=2)},
    {"observed_at": float("nan")},
    {"host_seconds": -1.0},
]
OTHERS = [pb.Item(), logged(1, loss=1.5), logged(1, a=1, b=2, c=3), finished(1), pb.Item(sequence=1)]


def _item(number: int, kind: int) -> pb.Item:
    item = pb.Item()
    item.CopyFrom(observed(1, **CHANGES[kind]) if kind < len(CHANGES) else OTHERS[kind - len(CHANGES)])
    item.sequence = number
    return item


@given(st.lists(st.sampled_from(range(len(CHANGES) + len(OTHERS))), max_size=20))
@settings(max_examples=200, deadline=None)
def test_what_comes_together_is_judged_and_added_up_as_each_by_itself(kinds: list[int]) -> None:
    together = JUDGE.judge([Received(_item(number, kind)) for number, kind in enumerate(kinds)])
    assert together == [
        judgement for number, kind in enumerate(kinds) for judgement in JUDGE.judge([Received(_item(number, kind))])
    ]


def test_of_many_alike_those_that_cannot_be_stored_are_named() -> None:
    """More than are read together, and one of each that are."""
    described = registration(groups=[pb.Group(module=f"m{n}", weights=10) for n in range(1000)], references=[])
    counts = [observed(n, step=n, changed=[n] * 1000, references=[], changed_at=[]) for n in range(1, 20)]
    for item in counts:
        for name in ("newly_changed", "reverted", "step_changed", "touched", "hidden", "non_finite", "squared_norm"):
            item.observation.ClearField(name)
        item.observation.ClearField("max_abs")
        item.observation.ClearField("synchronisation")
    judgements = Judge(described, SETTINGS).judge([Received(item) for item in counts])
    for number, judgement in enumerate(judgements, 1):
        assert judgement.sequence == number
        if number > 10:
            assert judgement.storable is None
            assert f"changed of group 0 is {number}; expected at most 10" in (judgement.rejected or "")
            continue
        assert judgement.storable is not None
        (row,) = judgement.storable.indexed.totals
        assert (row["sequence"], row["step"], row["changed"], row["trained"]) == (number, number, 1000 * number, 10_000)


@pytest.mark.parametrize("kind", range(len(CHANGES)))
def test_each_case_is_what_it_is_meant_to_be(kind: int) -> None:
    (judgement,) = JUDGE.judge([Received(_item(1, kind))])
    assert (
        (judgement.rejected is None)
        == (judgement.storable is not None)
        == (kind < CHANGES.index({"changed": [1, 601, 1]}))
    )
