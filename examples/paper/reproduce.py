"""Try every published claim about sparse updates on a model that two CPU cores train, and write a report.

bash examples/paper/reproduce.sh           installs what this needs, then runs it; run again, it goes on where it was
bash examples/paper/reproduce.sh --short   a form of two minutes, whose numbers say nothing: to see that it works
"""

import argparse
import os
import signal
import sys
from pathlib import Path

from local_service import Service, ServiceError, start_local_service

from monitor.errors import ConfigurationError
from monitor.report.target import check_target
from paper.experiments import FULL, SHORT, all_experiments, short_experiments
from paper.place import Place
from paper.results import Result, read_result
from paper.schedule import Schedule, ScheduleError


def main() -> None:
    given = _options().parse_args()
    output = given.output or Path("paper-runs-short" if given.short else "paper-runs")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        sys.exit(f"Error: {output} cannot be made ({error.strerror}). Give a directory to write to with --output.")
    # So that the service and what trains are stopped then, too.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        service = None if given.target else start_local_service(output)
        failures = _reproduce(given, Place(output.absolute(), service.grpc_address if service else given.target))
        if service is not None and not given.once:
            _serve(service)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except (ServiceError, ScheduleError) as error:
        sys.exit(f"Error: {error}")
    sys.exit(1 if failures else 0)


def _reproduce(given: argparse.Namespace, place: Place) -> dict[str, str]:
    """Run what has not finished, write the report, and return which experiments failed, and how."""
    experiments, scale = (short_experiments(), SHORT) if given.short else (all_experiments(), FULL)
    schedule = Schedule(experiments, scale, place)
    if schedule.kept:
        _say(f"{len(schedule.kept)} of {len(experiments)} trainings have finished before, and are kept.")
    right_before = schedule.prepare()
    _say(f"The base model gives {right_before:.1%} right answers. Unchanged: by bits in bfloat16, at the end.")
    failures: dict[str, str] = {}
    for number, ended in enumerate(schedule.run(given.jobs), start=len(schedule.kept) + 1):
        name = ended.experiment.name
        result = read_result(place.directory(name))
        if result is None:
            failures[name] = ended.failure
        _say(f"{number:3}/{len(experiments)} {name:<34} {ended.failure or _shown(result)}")
    # Imported when it is needed: what trains has the cores until then.
    from paper.report import Made, write_report

    report = write_report(
        Made(experiments, scale, place, right_before, failures, is_short=given.short), given.report or place.output
    )
    _say(f"Report: {report}")
    return failures


def _shown(result: Result) -> str:
    return f"{result.seconds:4.0f} s  unchanged {result.sparsity:6.1%}  right {result.right_answers:6.1%}"


def _serve(service: Service) -> None:
    _say(f"Live page: http://{service.http_address}/")
    _say("Serving until Ctrl-C.")
    service.wait()


def _say(text: str) -> None:
    print(text, flush=True)


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


def _address(text: str) -> str:
    try:
        return check_target(text)
    except ConfigurationError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--short", action="store_true", help="two steps of a part of the trainings")
    options.add_argument("--output", type=Path, help="where everything is kept; by default paper-runs(-short)")
    options.add_argument("--report", type=Path, help="directory of the report; by default the same")
    options.add_argument(
        "--target", type=_address, help="gRPC address of a service that runs, host:port; by default one is started"
    )
    options.add_argument("--jobs", type=_positive, default=min(2, os.cpu_count() or 1), help="trainings at a time")
    options.add_argument("--once", action="store_true", help="end after the report, and do not go on serving")
    return options


if __name__ == "__main__":
    main()
