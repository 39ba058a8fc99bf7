"""The commands of a training environment, which has no typer: `push` and `doctor`, read by argparse."""

from __future__ import annotations

import json
import os
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from pathlib import Path

from monitor.commands.ending import IN_WORDS, Ending
from monitor.terminal import printable_lines

DEFAULT_TARGET, PATIENCE_SECONDS = "127.0.0.1:50051", 30.0
RUN_ID_HELP = "Deliver what the service never accepted as a run of its own, under this identity."
JSON_HELP = "Print JSON for programs."
DOCTOR_HELP = "Walk the way from this machine to the service, and say what is wrong and what to do."
DIRECTORY_HELP = "Output directory of a training: look at its disk and at what is not delivered, too."
PAGES_HELP = "Where the service has its pages, for its version and clock; by default port 8765 of the target's host."


def run_without_typer(ending: Ending, arguments: Sequence[str]) -> bool:
    """Run the command that these arguments name, if it is one that needs no typer, and return whether it is."""
    commands: dict[str, Callable[[Sequence[str]], None]] = {"push": _push, "doctor": _doctor}
    rest = list(arguments)
    while rest[:1] == ["--debug"]:
        ending.debug = True
        rest.pop(0)
    if not rest or rest[0] not in commands:
        return False
    commands[rest[0]](rest[1:])
    return True


def _push(arguments: Sequence[str]) -> None:
    parser = ArgumentParser(
        "sparsity-monitor push", description="Deliver what a training run could not send.", epilog=IN_WORDS
    )
    parser.add_argument("directory", type=Path)
    parser.add_argument("--target", default=DEFAULT_TARGET)
    parser.add_argument("--patience-seconds", type=float, default=PATIENCE_SECONDS)
    parser.add_argument("--run-id", help=RUN_ID_HELP)
    parser.add_argument("--json", action="store_true", dest="as_json", help=JSON_HELP)
    deliver(**vars(parser.parse_args(arguments)))


def _doctor(arguments: Sequence[str]) -> None:
    parser = ArgumentParser("sparsity-monitor doctor", description=DOCTOR_HELP, epilog=IN_WORDS)
    parser.add_argument("target", nargs="?", default=DEFAULT_TARGET)
    parser.add_argument("--directory", type=Path, help=DIRECTORY_HELP)
    parser.add_argument("--service-url", default=os.environ.get("SPARSITY_MONITOR_SERVICE_URL"), help=PAGES_HELP)
    parser.add_argument("--json", action="store_true", dest="as_json", help=JSON_HELP)
    examine(**vars(parser.parse_args(arguments)))


def examine(target: str, directory: Path | None, service_url: str | None, *, as_json: bool) -> None:
    """Say what is wrong between this machine and a service."""
    from monitor.commands.doctor.doctor import doctor

    doctor(target, directory, service_url, as_json=as_json)


def deliver(directory: Path, target: str, patience_seconds: float, run_id: str | None, *, as_json: bool) -> None:
    """Deliver what a spool holds, and say how much that was."""
    from monitor.errors import SparsityMonitorError

    try:
        from monitor.report.push import push

        count = push(directory, target, patience_seconds, run_id)
    except SparsityMonitorError as error:
        sys.exit(printable_lines(str(error)))
    print(json.dumps({"delivered": count, "target": target}) if as_json else f"delivered {count} items to {target}")
