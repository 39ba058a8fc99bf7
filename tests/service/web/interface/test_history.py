"""/api/v1: curves over the steps in each form, and groups at a step and over the steps."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator

import pytest

from monitor.wire import monitor_pb2 as pb
from tests.service.messages import logged, observed, registration
from tests.service.running import Client, service_in_thread

STEPS = 100
HISTORY = "/api/v1/runs/run/history"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A run of a hundred steps that changes one weight more at each, and logs a loss with one peak."""
    with service_in_thread(tmp_path_factory.mktemp("run") / "store.db") as client:
        client.register(registration())
        items = []
        for step in range(1, STEPS + 1):
            items.append(observed(2 * step - 1, step=step, changed=[0, step, 1]))
            items.append(logged(2 * step, step=step, loss=9.0 if step == 33 else 1.0))
        client.send("run", items)
        yield client


def test_a_peak_survives_however_few_points_are_asked_for(service: Client) -> None:
    read = service.http.get(HISTORY, params={"fields": ["changed", "metric:loss"], "points": 5}).json()
    assert (read["from_step"], read["to_step"], read["bucket_steps"]) == (1, 100, 20)
    assert (read["criterion"], read["visible_dtype"], read["weights"]) == ("bits", "bfloat16", 2000)
    changed, loss = read["curves"]["changed"], read["curves"]["metric:loss"]
    assert changed["step"] == [20, 40, 60, 80, 100]
    assert changed["min"] == [2, 22, 42, 62, 82]
    assert changed["max"] == changed["last"] == [21, 41, 61, 81, 101]
    assert loss["max"] == [1, 9, 1, 1, 1]
    assert changed["time"] == [1.7e9 + step for step in changed["step"]]


def test_a_range_of_steps_is_read_whole_where_it_fits(service: Client) -> None:
    read = service.http.get(HISTORY, params={"from_step": 30, "to_step": 35}).json()
    sparsity = read["curves"]["cumulative_sparsity"]
    assert read["bucket_steps"] == 1
    assert sparsity["step"] == [30, 31, 32, 33, 34, 35]
    assert sparsity["min"] == sparsity["max"] == sparsity["last"]
    assert sparsity["last"] == [1 - (step + 1) / 1000 for step in sparsity["step"]]
    assert list(read["curves"]) == ["cumulative_sparsity", "step_sparsity"]


@pytest.mark.parametrize("steps", [{"from_step": 101}, {"to_step": 0}, {"from_step": 9, "to_step": 8}])
def test_a_range_without_anything_is_empty(service: Client, steps: dict[str, int]) -> None:
    read = service.http.get(HISTORY, params=steps).json()
    assert (read["curves"], read["from_step"]) == ({}, None)


def test_csv_has_a_row_for_each_point(service: Client) -> None:
    response = service.http.get(HISTORY, params={"fields": ["changed", "metric:loss"], "points": 4, "format": "csv"})
    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(response.text)))
    assert [row["field"] for row in rows] == ["changed"] * 4 + ["metric:loss"] * 4
    assert [(int(row["step"]), int(row["min"]), int(row["max"])) for row in rows[:4]] == [
        (25, 2, 26),
        (50, 27, 51),
        (75, 52, 76),
        (100, 77, 101),
    ]


def test_arrow_has_the_same_points(service: Client) -> None:
    ipc = pytest.importorskip("pyarrow.ipc")
    parameters = {"fields": ["changed", "metric:loss"], "points": 4}
    table = ipc.open_stream(service.http.get(HISTORY, params={**parameters, "format": "arrow"}).content).read_all()
    curves = service.http.get(HISTORY, params=parameters).json()["curves"]
    assert table["step"].to_pylist() == curves["changed"]["step"] + curves["metric:loss"]["step"]
    assert table["max"].to_pylist() == curves["changed"]["max"] + curves["metric:loss"]["max"]
    empty = service.http.get(HISTORY, params={"from_step": 1000, "format": "arrow"}).content
    assert ipc.open_stream(empty).read_all().num_rows == 0


def test_arrow_without_its_library_is_refused_in_words(service: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr("monitor.service.web.interface.tables.import_module", missing)
    response = service.http.get(HISTORY, params={"format": "arrow"})
    assert response.status_code == 406
    assert "ask for csv, or json" in response.json()["detail"]


def test_polling_costs_nothing_until_something_is_new(service: Client) -> None:
    service.register(registration("polled"))
    service.send("polled", [observed(1)])
    path = "/api/v1/runs/polled/history"
    first = service.http.get(path)
    again = service.http.get(path, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert service.http.get(path, params={"points": 7}, headers={"If-None-Match": first.headers["etag"]}).is_success
    # The last one fills a gap.
    for item in (observed(2), logged(4, step=2, loss=1), logged(5, step=3, loss=2), logged(3, step=1, loss=3)):
        service.send("polled", [item])
        new = service.http.get(path, headers={"If-None-Match": first.headers["etag"]})
        assert new.status_code == 200
        first = new


def test_a_loss_that_is_no_number_is_null(service: Client) -> None:
    service.register(registration("nan"))
    service.send("nan", [logged(1, loss=math.nan), logged(2, loss=-math.inf)])
    curve = service.http.get("/api/v1/runs/nan/history", params={"fields": "metric:loss"}).json()["curves"]
    assert curve["metric:loss"]["last"] == [None, None]


def test_groups_are_shown_as_they_were_at_a_step(service: Client) -> None:
    for step, expected in ((40, 40), (None, 100), (10_000, 100)):
        parameters = {} if step is None else {"step": step}
        shown = service.http.get("/api/v1/runs/run/groups", params=parameters).json()
        assert shown["step"] == expected
        assert [group["counts"]["changed"] for group in shown["groups"]] == [0, expected, 1]


def test_layers_over_the_steps_are_their_groups_together(service: Client) -> None:
    groups = [
        pb.Group(layer=layer, module=module, weights=weights)
        for layer, module, weights in ((0, "up", 600), (1, "up", 400), (0, "down", 400))
    ]
    service.register(registration("layers", groups=groups, references=[], tolerances=[]))
    none = {"references": [], "changed_at": [], "synchronisation": None}
    service.send("layers", [observed(1, changed=[60, 40, 10], **none), observed(2, changed=[], **none)])
    path = "/api/v1/runs/layers/groups/history"
    read = service.http.get(path, params={"by": "layer"}).json()["groups"]
    assert [(each["label"], each["module"]) for each in read] == [("00", ""), ("01", "")]
    # 70 of 600 + 400, 40 of 400; then not measured.
    assert [each["values"] for each in read] == [[1 - 70 / 1000, None], [1 - 40 / 400, None]]
    counts = service.http.get(path, params={"by": "layer", "field": "changed"}).json()["groups"]
    assert [each["values"] for each in counts] == [[70, None], [40, None]]
    (one,) = service.http.get(path, params={"by": "layer", "group": ["00/up"]}).json()["groups"]
    assert one["values"] == [1 - 60 / 600, None]


def test_groups_over_the_steps_are_those_of_the_last_observation_in_each_bucket(service: Client) -> None:
    path = "/api/v1/runs/run/groups/history"
    read = service.http.get(path, params={"field": "changed", "points": 4}).json()
    assert read["step"] == [25, 50, 75, 100]
    assert [(group["label"], group["module"]) for group in read["groups"]] == [
        ("-", "embed_tokens"),
        ("00", "mlp"),
        ("01", "mlp"),
    ]
    assert [group["values"] for group in read["groups"]] == [[0] * 4, read["step"], [1] * 4]
    whole = service.http.get(path, params={"field": "changed", "points": 1000}).json()
    assert whole["step"] == list(range(1, STEPS + 1))
    assert [group["values"] for group in whole["groups"]] == [[0] * STEPS, whole["step"], [1] * STEPS]
    (one,) = service.http.get(path, params={"group": "00/mlp", "points": 2, "field": "step_sparsity"}).json()["groups"]
    assert one["values"] == [pytest.approx(1 - 6 / 600)] * 2
