from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.grafana.apply.stand_in import StandIn, running


@pytest.fixture
def grafana() -> Iterator[StandIn]:
    """No Grafana can run in the tests: a server that answers as the documentation of its API says."""
    with running() as grafana:
        yield grafana
