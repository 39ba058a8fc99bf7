"""Attempts of runs to report in tests: a small observed model, and processes that train it."""

from __future__ import annotations

import os
import signal
from contextlib import closing, suppress
from pathlib import Path

import torch
from torch import nn

from monitor.observe.observation import Observation
from monitor.observe.observer import UpdateObserver
from monitor.report.messages.registration import new_run_id, registration_message
from monitor.report.reporter import Reporter
from monitor.report.spool.attempt import SpooledAttempt
from monitor.report.spool.items import Spool
from monitor.wire import monitor_pb2 as pb
from tests.eventually import eventually
from tests.processes import Ended, Processes
from tests.service.running import Client

# A port on which nothing listens: TCP port 1 belongs to a service that no system runs.
NOWHERE = "127.0.0.1:1"


class TinyModel(nn.Module):
    """Two layers with parameter names as language models have them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(10, 4)
        self.layers = nn.ModuleList(nn.ModuleDict({"up_proj": nn.Linear(4, 8), "norm": nn.LayerNorm(4)}) for _ in "ab")


class ObservedModel:
    """A model whose weights move, and its observer."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = TinyModel()
        self.observer = UpdateObserver(self.model)
        self.step = 0

    def train_and_observe(self) -> Observation:
        """Change the weights a little and observe them."""
        self.step += 1
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.add_(torch.rand_like(parameter), alpha=0.01)
        return self.observer.observe(self.step)

    def registration(self, run_id: str | None = None, **fields: object) -> pb.Registration:
        return registration_message(self.observer, run_id=run_id or new_run_id("test"), name="test", **fields)


def report_some(reporter: Reporter, observed: ObservedModel, observations: int) -> None:
    for _ in range(observations):
        reporter.report(observed.train_and_observe())


def spooled(reporter: Reporter) -> SpooledAttempt:
    """What the spool on disk knows of a reporter's attempt now."""
    with closing(Spool(reporter.directory)) as spool:
        return spool.attempt(reporter.key)


def uploader_of(reporter: Reporter) -> int:
    """The process id of a reporter's uploader, which the writer thread starts."""
    eventually(lambda: reporter.uploader_pid is not None)
    assert reporter.uploader_pid is not None
    return reporter.uploader_pid


def wait_for_end(pid: int) -> None:
    """Wait for an uploader to end; the writer thread collects its status, now or earlier."""
    with suppress(ChildProcessError):
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def kill_uploader(reporter: Reporter) -> int:
    """Kill a reporter's uploader, and return the process id that it had."""
    pid = uploader_of(reporter)
    os.kill(pid, signal.SIGKILL)
    wait_for_end(pid)
    return pid


def end_uploader(reporter: Reporter) -> None:
    """Kill an uploader that a closed reporter left to go on by itself."""
    with suppress(ChildProcessError, ProcessLookupError):
        os.waitpid(kill_uploader(reporter), 0)


def uploaders_in(folder: Path) -> list[int]:
    """The process ids of the uploaders that deliver from somewhere in a folder."""
    return [int(process.name) for process in Path("/proc").glob("[0-9]*") if _delivers_from(folder, process)]


def _delivers_from(folder: Path, process: Path) -> bool:
    with suppress(OSError):
        arguments = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
        return "monitor.report.uploader" in arguments and any(each.startswith(f"{folder}/") for each in arguments)
    return False


def steps(client: Client, run_id: str) -> list[int]:
    """The steps of all observations that the service has of a run, in the order in which it gives them."""
    entries = client.history(run_id)
    return [entry.item.observation.step for entry in entries if entry.item.HasField("observation")]


_SCRIPT = """
import os, signal, sys
from pathlib import Path
from monitor.report.reporter import Reporter
from tests.eventually import eventually
from tests.processes import Ended, Processes
from tests.report.attempts import ObservedModel, spooled

observed = ObservedModel()
reporter = Reporter(observed.registration("{run_id}"), Path("{directory}"), "{target}")
for _ in range(3):
    reporter.report(observed.train_and_observe())
{end}
"""


class Trainings:
    """Trainings in processes of their own."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes

    def run(self, end: str, run_id: str, directory: Path, target: str) -> Ended:
        """Run one that observes three steps, then does what `end` says."""
        return self._processes.run(_SCRIPT.format(run_id=run_id, directory=directory, target=target, end=end))
