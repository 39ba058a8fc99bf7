"""A real Prometheus that scrapes a service under test."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.eventually import eventually

_CONFIGURATION = """
global:
  scrape_interval: 1s
scrape_configs:
  - job_name: sparsity-monitor
    static_configs:
      - targets: ["{target}"]
"""


class Prometheus:
    """Answers PromQL."""

    def __init__(self, address: str) -> None:
        # Without the certificates that plain HTTP has no use for: reading them takes long.
        self._http = httpx.Client(base_url=f"http://{address}", timeout=30, trust_env=False, verify=False)

    def query(self, promql: str) -> list[tuple[dict[str, str], float]]:
        """Return (labels, value) of an instant query."""
        response = self._http.get("/api/v1/query", params={"query": promql})
        response.raise_for_status()
        return [(sample["metric"], float(sample["value"][1])) for sample in response.json()["data"]["result"]]

    def query_range(self, promql: str, start: float, end: float, step: float) -> list[list[float]]:
        """Return the values of each series of a range query."""
        parameters = {"query": promql, "start": str(start), "end": str(end), "step": str(step)}
        response = self._http.get("/api/v1/query_range", params=parameters)
        response.raise_for_status()
        return [[float(value) for _, value in series["values"]] for series in response.json()["data"]["result"]]

    def is_ready(self) -> bool:
        try:
            return self._http.get("/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    def close(self) -> None:
        self._http.close()


@contextmanager
def running_prometheus(directory: Path, target: str, configuration_text: str | None = None) -> Iterator[Prometheus]:
    """Run Debian's Prometheus on a free port; skip the test where it is not installed.

    Args:
        target: address of the service that it scrapes, unless there is a configuration.
        configuration_text: what its configuration file holds.
    """
    binary = shutil.which("prometheus")
    if binary is None:
        pytest.skip("prometheus is not installed; tests/run.sh installs it")
    configuration = directory / "prometheus.yml"
    configuration.write_text(configuration_text or _CONFIGURATION.format(target=target))
    command = [binary, f"--config.file={configuration}", f"--storage.tsdb.path={directory / 'tsdb'}"]
    with listening(command, directory / "prometheus.log") as address:
        prometheus = Prometheus(address)
        try:
            eventually(prometheus.is_ready)
            yield prometheus
        finally:
            prometheus.close()


@contextmanager
def listening(command: list[str], log: Path) -> Iterator[str]:
    """Run Prometheus or Alertmanager on a port that the system chooses, and give the address that its log names."""
    with log.open("wb") as output:
        process = subprocess.Popen([*command, "--web.listen-address=127.0.0.1:0"], stdout=output, stderr=output)
    found: list[str] = []

    def is_known() -> bool:
        assert process.poll() is None, log.read_text()
        found.extend(re.findall(r'msg="Listening on" address=(\S+)', log.read_text()))
        return bool(found)

    try:
        eventually(is_known)
        yield found[0]
    finally:
        process.terminate()
        process.wait(timeout=30)
