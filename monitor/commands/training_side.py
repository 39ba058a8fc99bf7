"""The commands of a training environment, which has no typer: `push` and `doctor`, read by argparse."""

from __future__ import annotations

import json
import os
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from monitor.commands.ending import IN_WORDS, Ending
from monitor.terminal import printable_lines
from monitor.version import __version__

DEFAULT_TARGET, PATIENCE_SECONDS = "127.0.0.1:50051", 30.0
DEBUG_HELP = "Show where an error comes from, as Python does."
VERSION_HELP = "Show the version."
TARGET_HELP = "gRPC address of the service, host:port; of several that take over from each other, all, between commas."
SPOOLED_HELP = "Output directory of a run that used SparsityCallback."
PATIENCE_HELP = "How long to try to reach the service."
PUSH_HELP = "Deliver what a training run observed and could not send."
PUSH_EXAMPLE = "Example: sparsity-monitor push outputs/grpo --target monitor.example:50051"
DOCTOR_EXAMPLE = "Example: sparsity-monitor doctor monitor.example:50051 --directory outputs/grpo"
RUN_ID_HELP = "Deliver what the service never accepted as a run of its own, under this identity."
JSON_HELP = "Print JSON for programs."
DOCTOR_HELP = "Walk the way from this machine to the service, and say what is wrong and what to do."
DIRECTORY_HELP = "Output directory of a training: look at its disk and at what is not delivered, too."
PAGES_HELP = "Where the service has its pages, for its version and clock; by default port 8765 of the target's host."

# To the begin of a line that is empty then.
_LINE = "\r\x1b[K"
_WITHOUT_TYPER = (
    'The commands of a machine that trains. The others need more libraries: pip install "sparsity-monitor[service]".'
)


def run_without_typer(ending: Ending, arguments: Sequence[str]) -> bool:
    """Run what these arguments ask for, if that needs no typer, and return whether it is so."""
    words = [each for each in arguments if not each.startswith("-")]
    if words and words[0] not in ("push", "doctor"):
        return False
    wanted = vars(_parser().parse_args(arguments))
    ending.debug = wanted.pop("debug")
    wanted.pop("run")(**wanted)
    return True


def _parser() -> ArgumentParser:
    parser = ArgumentParser("sparsity-monitor", description=_WITHOUT_TYPER, epilog=IN_WORDS)
    parser.add_argument("--debug", action="store_true", help=DEBUG_HELP)
    parser.add_argument("--version", action="version", version=__version__, help=VERSION_HELP)
    commands = parser.add_subparsers(required=True, metavar="{push,doctor}")
    _add_push(commands.add_parser("push", help=PUSH_HELP, description=PUSH_HELP, epilog=PUSH_EXAMPLE))
    _add_doctor(commands.add_parser("doctor", help=DOCTOR_HELP, description=DOCTOR_HELP, epilog=DOCTOR_EXAMPLE))
    return parser


def _add_push(parser: ArgumentParser) -> None:
    parser.add_argument("directory", type=Path, help=SPOOLED_HELP)
    parser.add_argument("--target", default=DEFAULT_TARGET, help=TARGET_HELP)
    parser.add_argument("--patience-seconds", type=float, default=PATIENCE_SECONDS, help=PATIENCE_HELP)
    parser.add_argument("--run-id", help=RUN_ID_HELP)
    parser.add_argument("--json", action="store_true", dest="as_json", help=JSON_HELP)
    parser.set_defaults(run=deliver)


def _add_doctor(parser: ArgumentParser) -> None:
    parser.add_argument("target", nargs="?", default=DEFAULT_TARGET, help=TARGET_HELP)
    parser.add_argument("--directory", type=Path, help=DIRECTORY_HELP)
    parser.add_argument("--service-url", default=os.environ.get("SPARSITY_MONITOR_SERVICE_URL"), help=PAGES_HELP)
    parser.add_argument("--json", action="store_true", dest="as_json", help=JSON_HELP)
    parser.set_defaults(run=examine)


def examine(target: str, directory: Path | None, service_url: str | None, *, as_json: bool) -> None:
    """Say what is wrong between this machine and a service."""
    from monitor.commands.doctor.doctor import doctor

    doctor(target, directory, service_url, as_json=as_json)


def deliver(directory: Path, target: str, patience_seconds: float, run_id: str | None, *, as_json: bool) -> None:
    """Deliver what a spool holds, and say how much that was."""
    from monitor.errors import SparsityMonitorError

    try:
        from monitor.report.push import push

        with _telling() as tell:
            count = push(directory, target, patience_seconds, run_id, tell)
    except SparsityMonitorError as error:
        sys.exit(printable_lines(str(error)))
    print(json.dumps({"delivered": count, "target": target}) if as_json else _delivered(count, target))


def _delivered(count: int, target: str) -> str:
    """Return what was delivered, for people."""
    # That nothing was left says nothing of this target: it went to another, perhaps.
    return f"delivered {count:,} item{'s' * (count != 1)} to {target}" if count else "nothing was left to deliver"


@contextmanager
def _telling() -> Iterator[Callable[[int], None] | None]:
    """Yield what shows how many items are left, in a terminal: on one line, which is gone in the end."""
    if not sys.stderr.isatty():
        yield None
        return
    try:
        yield lambda left: print(f"{_LINE}{left:,} items left", end="", file=sys.stderr, flush=True)
    finally:
        print(_LINE, end="", file=sys.stderr, flush=True)
