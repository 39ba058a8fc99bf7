"""`runs list|show|watch` as processes, against a real service."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from typing import Any

import pytest

from monitor.commands.watch import print_lines, states_of
from monitor.notebook.interface import Interface, NoSuchRunError, Parameters
from tests.commands.running import command, in_terminal, installed, shell, started
from tests.forked import Started
from tests.service.messages import finished, observed, registration
from tests.service.running import Client

# One worker forks them all.
pytestmark = pytest.mark.xdist_group("commands")


def test_runs_are_listed_with_their_sparsities_and_how_these_are_measured(url: str) -> None:
    (line,) = [line for line in command("runs", "list", "--service-url", url).stdout.splitlines() if "grpo-1" in line]
    # 80 of 1000 trained weights have changed.
    assert " ".join(line.split()) == "my grpo grpo-1 failed 20 of 30 92.00 % 99.00 % bits, bfloat16"


def test_programs_get_what_the_interface_says(url: str) -> None:
    listed = json.loads(command("runs", "list", "--service-url", url, "--state", "failed", "--json").stdout)
    assert [(run["run_id"], run["step"]) for run in listed] == [("grpo-1", 20)]
    shown = json.loads(command("runs", "show", "grpo-1", "--service-url", url, "--json").stdout)
    assert shown["counts"]["changed"] == 80
    assert len(shown["groups"]) == 3


def test_a_run_is_shown_by_its_name_with_a_bar_for_each_layer(url: str) -> None:
    # The address may come from the environment, as that of the other commands does.
    shown = command("runs", "show", "my grpo", SPARSITY_MONITOR_SERVICE_URL=url).stdout
    assert "cumulative sparsity 92.00 %, step sparsity 99.00 % (bits, bfloat16)" in shown
    assert "sparse at step 20: it equals the base in 92 %" in shown
    layers = {line.split()[0]: line.split()[1:] for line in shown.splitlines()[-3:]}
    assert layers == {
        "-": ["0", "0", "not", "trained"],
        "00": ["600", "60", "10.00", "%", "█" * 24],
        "01": ["400", "20", "5.00", "%", "█" * 12],
    }
    assert max(map(len, shown.splitlines())) <= 80


def test_a_terminal_without_such_characters_gets_others(url: str) -> None:
    shown = installed("runs", "show", "grpo-1", "--service-url", url, PYTHONUTF8="0", PYTHONIOENCODING="ascii").stdout
    assert shown.splitlines()[-1].split() == ["01", "400", "20", "5.00", "%", "#" * 12]


def test_what_runs_are_called_does_nothing_to_a_terminal(url: str) -> None:
    for arguments in (["list"], ["show", "hostile"]):
        shown = command("runs", *arguments, "--service-url", url).stdout
        assert r"[bold]\x1b[2J\x07" in "".join(shown.split())
        assert all(line.isprintable() for line in shown.split("\n"))
        told = command("runs", *arguments, "--json", "--service-url", url).stdout
        assert all(line.isprintable() for line in told.split("\n"))


@pytest.mark.parametrize("of_whom", ["list", "show grpo-1", "watch grpo-1"])
def test_a_reader_that_leaves_early_is_no_error(of_whom: str, url: str) -> None:
    done = shell(f"$S runs {of_whom} --service-url {url} | true")
    assert (done.returncode, done.stderr) == (141, "")


def test_what_cannot_be_shown_is_said_in_a_sentence(url: str, service: Client) -> None:
    elsewhere = f"http://{service.listening.grpc_address}"
    for arguments, said in (
        (["show", "nobody"], "has no run 'nobody'; there are 'hostile' ([bold]\\x1b[2J\\x07), 'sft-2' (twice), "),
        (
            ["show", "twice"],
            "has 2 runs called 'twice': give the id of one; there are 'sft-2' (twice), 'sft-1'",
        ),
        (["watch", "nobody"], "has no run 'nobody'"),
        (["list", "--label", "asleep"], "label: 'asleep' was given; expected NAME=VALUE"),
        (
            ["list", "--service-url", "http://127.0.0.1:1"],
            "cannot reach a service at http://127.0.0.1:1: Connection refused. Start one",
        ),
        (["list", "--service-url", elsewhere], "it is not that of gRPC"),
        (["list", "--service-url", "localhost"], "'localhost' was given; expected where browsers"),
    ):
        done = command("runs", *arguments, SPARSITY_MONITOR_SERVICE_URL=url)
        assert (done.returncode, done.stdout) == (1, ""), arguments
        assert said in done.stderr
        assert "Traceback" not in done.stderr


def test_a_command_line_that_is_mistyped_is_a_usage_error_that_says_what_there_is(service: Client, url: str) -> None:
    target = service.listening.grpc_address
    for arguments, said in (
        (["show"], "Missing argument 'run'"),
        (["lst"], "No such command 'lst'; there are list, show, watch, delete, or give HOST:PORT."),
        # Whose runs would be listed otherwise?
        ([target, "list"], f"'{target}' is no command, and nothing follows an address"),
        (["list", "--state", "asleep"], "'asleep' is not one of 'running', 'stalled'"),
    ):
        done = command("runs", *arguments, SPARSITY_MONITOR_SERVICE_URL=url, COLUMNS="200")
        assert (done.returncode, done.stdout) == (2, ""), arguments
        assert said in done.stderr


def test_no_number_is_cut_off_in_a_narrow_terminal(url: str) -> None:
    for arguments in (["list"], ["show", "grpo-1"]):
        shown = command("runs", *arguments, SPARSITY_MONITOR_SERVICE_URL=url, COLUMNS="30").stdout
        assert "grpo-1" in shown
        assert "…" not in shown


def test_the_command_of_earlier_versions_lists_over_grpc(service: Client) -> None:
    listed = command("runs", service.listening.grpc_address).stdout
    assert listed.startswith("run\tname\tmodel\t")
    assert "\ngrpo-1\tmy grpo\t" in listed


def _watch(client: Client, run_id: str, *options: str) -> Started:
    url = f"http://{client.listening.http_address}"
    return started("runs", "watch", run_id, "--service-url", url, "--every-seconds", "0.1", *options)


def test_a_run_is_watched_until_it_ends(start: Callable[..., Client]) -> None:
    client = start()
    client.register(registration("watched"))
    client.send("watched", [observed(1)])
    watching = _watch(client, "watched")
    assert watching.stdout.readline() == (
        "step 1, running: cumulative sparsity 95.00 %, step sparsity 99.00 % (bits, bfloat16)\n"
    )
    client.send("watched", [observed(2)])
    assert watching.stdout.readline().startswith("step 2, running: ")
    client.send("watched", [finished(3, step=2)])
    rest, said = watching.communicate(timeout=60)
    assert rest.startswith("step 2, finished: ")
    assert (watching.returncode, said) == (0, "")


def test_a_state_that_is_not_new_is_no_line(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    first = Interface(url).run("grpo-1")
    print_lines(iter([first, dict(first), {**first, "step": 21}, {**first, "step": 21}]), as_json=False)
    assert [line.split(",")[0] for line in capsys.readouterr().out.splitlines()] == ["step 20 of 30", "step 21 of 30"]


class _Forgetful(Interface):
    """A service that has another store than it had when the run was found."""

    def get(self, *path: str, parameters: Parameters | None = None) -> Any:
        raise NoSuchRunError("the service refuses: run grpo-1 is not in this store")


def test_a_run_that_is_gone_is_not_waited_for(url: str) -> None:
    run = {**Interface(url).run("grpo-1"), "state": "running"}
    with pytest.raises(NoSuchRunError):
        list(states_of(_Forgetful(url), run, every_seconds=0))


def test_who_has_watched_enough_ends_it_with_ctrl_c(start: Callable[..., Client]) -> None:
    client = start()
    client.register(registration("watched"))
    watching = _watch(client, "watched", "--json")
    assert json.loads(watching.stdout.readline())["run_id"] == "watched"
    watching.send_signal(signal.SIGINT)
    assert watching.communicate(timeout=60) == ("", "")
    assert watching.returncode == 130


def test_in_a_terminal_a_run_is_a_table_with_its_curves(url: str) -> None:
    status, shown = in_terminal("runs", "watch", "grpo-1", "--service-url", url)
    assert status == 0
    assert "▇▇▆▆▆▅▅▅▄▄▃▃▃▂▂▂▁▁" in shown
    assert "failed: out of memory, at step 20 of 30, 20 observations" in shown
    assert re.search(r"00 +600 +60 +10\.00 % +\S*█{24}", shown)
