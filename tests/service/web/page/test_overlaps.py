"""What the page that compares runs says of their masks, and what it cannot compare."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from monitor.wire import monitor_pb2 as pb
from tests.service.messages import observed, registration, stacked_groups
from tests.service.running import Client

MASK = [0, 30, 20]


def compared(client: Client, *run_ids: str) -> list[list[str]]:
    """The cells of the matrix of overlaps."""
    page = client.http.get("/compare", params={"run": run_ids}).text
    table = page.partition('<table class="overlaps"')[2].partition("<tbody>")[2].partition("</table>")[0]
    return [
        [" ".join(re.sub("<[^>]*>", " ", cell).split()) for cell in row.split("<td>")[1:]]
        for row in table.split("<tr>")[1:]
    ]


def said_below(client: Client, *run_ids: str) -> str:
    """What stands below that matrix."""
    page = client.http.get("/compare", params={"run": run_ids}).text
    below = page.partition('<table class="overlaps"')[2].partition("</table>")[2]
    return " ".join(re.sub("<[^>]*>", " ", below).split())


def test_an_overlap_is_known_where_one_run_had_the_others_mask(start: Callable[..., Client]) -> None:
    client = start()
    client.register(registration("first", name="the first"))
    client.send("first", [observed(1, changed=MASK)])
    client.register(registration("second", references=[pb.Reference(name="the first", weights=MASK)]))
    counts = pb.ReferenceCounts(intersection=[0, 20, 10], expected_intersection=[0, 6, 4])
    client.send("second", [observed(1, changed=[0, 60, 40], references=[counts])])
    # 30 in both, of 100 + 50 − 30; by chance 10 of 100 + 50 − 10.
    cell = f"{30 / 120:.2%} by chance {10 / 140:.2%}".replace("%", " %")
    assert compared(client, "first", "second") == [["itself", cell], [cell, "itself"]]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"references": []}, "neither run had a reference mask named after the other"),
        ({"references": [pb.Reference(name="other", weights=MASK)]}, "neither run had"),
        (
            {"references": [pb.Reference(name="first", weights=[0, 20, 30])]},
            "a reference is named “first”, but is not the mask that run has now",
        ),
        ({"groups": stacked_groups(), "references": [pb.Reference(name="first", weights=MASK)]}, "but is not the mask"),
    ],
)
def test_what_is_not_known_of_an_overlap_is_said(
    changes: dict[str, object], why: str, start: Callable[..., Client]
) -> None:
    client = start()
    client.register(registration("first"))
    client.send("first", [observed(1, changed=MASK)])
    client.register(registration("second", **changes))
    counts = [pb.ReferenceCounts(intersection=[0, 20, 10], expected_intersection=[0, 6, 4])]
    client.send("second", [observed(1, references=counts if changes["references"] else [])])
    (_, cell), _ = compared(client, "first", "second")
    assert cell == "not known"
    assert why in said_below(client, "first", "second")


def test_each_reason_is_said_once(start: Callable[..., Client]) -> None:
    client = start()
    runs = ("first", "second", "third", "fourth")
    for run_id in runs[:3]:
        client.register(registration(run_id))
        client.send(run_id, [observed(1, changed=MASK)])
    client.register(registration("fourth", references=[pb.Reference(name="first", weights=[0, 1, 1])]))
    client.send("fourth", [observed(1, references=[pb.ReferenceCounts(intersection=[0, 1, 1])])])
    none, another = "not known (1)", "not known (2)"
    assert compared(client, *runs)[0] == ["itself", none, none, another]
    assert compared(client, *runs)[3] == [another, none, none, "itself"]
    said = said_below(client, *runs)
    assert said.count("neither run had a reference mask") == said.count("but is not the mask that run has now") == 1


def test_a_reference_that_the_latest_observation_did_not_measure_has_no_overlap(start: Callable[..., Client]) -> None:
    client = start()
    client.register(registration("first"))
    client.send("first", [observed(1, changed=MASK)])
    client.register(registration("second", references=[pb.Reference(name="first", weights=MASK)]))
    client.send("second", [observed(1, references=[])])
    why = "the latest observation did not measure the reference mask “first”"
    assert why in said_below(client, "first", "second")


def test_runs_that_count_differently_are_warned_of_and_runs_of_one_name_are_told_apart(
    start: Callable[..., Client],
) -> None:
    client = start()
    client.register(registration("bf16"))
    client.register(registration("fp32", visible_dtype="float32"))
    page = client.http.get("/compare?run=bf16&run=fp32").text
    assert "<b>Not comparable:</b> these runs count changed weights differently" in page
    assert ">a run (bf16)</a>" in page
    assert ">a run (fp32)</a>" in page


@pytest.mark.parametrize(
    ("query", "status", "said"),
    [
        ("", 422, "0 runs were given; tick 2 to 20"),
        ("?run=run&run=run", 422, "1 run was given"),
        ("?" + "&".join(f"run={number}" for number in range(21)), 422, "21 runs were given"),
        ("?run=none&run=neither", 404, "is not in this store"),
    ],
)
def test_what_cannot_be_compared_is_said(query: str, status: int, said: str, client: Client) -> None:
    answer = client.http.get(f"/compare{query}", headers={"Accept": "text/html"})
    assert answer.status_code == status
    assert said in answer.text
