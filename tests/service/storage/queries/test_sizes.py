"""The size of a store in a database server: an estimate that is right."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from monitor.service.storage.opening import open_engine
from monitor.service.storage.store import Store
from monitor.wire import monitor_pb2 as pb
from tests.service.messages import logged, observation, observed, registration
from tests.service.postgresql import Cluster
from tests.service.storing import add

NOW = 1.75e9
_TOTAL = "SELECT sum(pg_total_relation_size(oid)) FROM pg_class WHERE relname IN ('items', 'totals', 'curve_values')"


def _large(sequence: int, groups: int) -> pb.Item:
    # Numbers that no compression makes small.
    counts = [(sequence * 7919 + group * 104729) % 1_000_003 for group in range(groups)]
    item = pb.Item(sequence=sequence, observation=observation(sequence))
    for name in ("references", "changed_at", "squared_norm", "max_abs", "synchronisation"):
        item.observation.ClearField(name)
    for name in ("changed", "newly_changed", "reverted", "step_changed", "touched", "hidden", "non_finite"):
        item.observation.ClearField(name)
        getattr(item.observation, name).extend(counts)
    return item


@pytest.mark.xdist_group("postgresql")
@pytest.mark.parametrize("groups", [0, 300])
def test_what_runs_take_is_about_what_the_tables_grew_by(groups: int, cluster: Cluster) -> None:
    url = cluster.new_database()
    store = Store(url)
    description = registration("grpo-seed1-of-usual-length-1127" if groups else "run")
    if groups:
        for field in ("groups", "references", "tolerances", "base_squared_norm"):
            description.ClearField(field)
        description.groups.extend(pb.Group(layer=layer, module="mlp", weights=2_000_000) for layer in range(groups))
    store.register(description, NOW, max_runs=10)
    pairs = [
        (_large(2 * n, groups) if groups else observed(2 * n, step=n), logged(2 * n + 1, step=n, loss=1.0))
        for n in range(1, 1001)
    ]
    add(store, description.run_id, 1, [item for pair in pairs for item in pair], None, NOW, description)
    estimated = store.bytes_of(description.run_id)
    store.close()
    engine = open_engine(url)
    with engine.connect() as connection:
        taken = int(connection.execute(text(_TOTAL)).scalar_one())
    engine.dispose()
    assert estimated == pytest.approx(taken, rel=0.2)
