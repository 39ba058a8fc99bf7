"""Tests that share what takes long to start run in one process, where several run tests."""

from __future__ import annotations

import os

import pytest


@pytest.mark.xdist_group("one")
def test_groups_are_seen_by_what_hands_tests_out(request: pytest.FixtureRequest) -> None:
    if "PYTEST_XDIST_WORKER" not in os.environ:
        pytest.skip("one process runs all tests")
    assert request.node.nodeid.endswith("@one"), "pytest-xdist does not see xdist_group with this version of pytest"
