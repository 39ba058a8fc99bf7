"""How commands end: exit status, one sentence, and a traceback only for who asks for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands.running import WITHOUT_TYPER, command, command_after, shell

# One worker forks them all.
pytestmark = pytest.mark.xdist_group("commands")

_BROKEN = "import monitor.commands.listing as broken; broken.print_runs = lambda target: {}[target]"
_INTERRUPTED = (
    "import monitor.commands.listing as broken, os, signal; "
    "broken.print_runs = lambda target: os.kill(os.getpid(), signal.SIGINT)"
)


def test_the_help_says_what_an_exit_status_means() -> None:
    shown = " ".join(command("--help").stdout.split())
    assert "1 failed, and a sentence says why; 2 no such command or option; 130 ended by Ctrl-C" in shown


def test_what_fails_is_said_in_a_sentence_and_its_origin_only_with_debug() -> None:
    plain = command("runs", "127.0.0.1:1")
    assert (plain.returncode, plain.stdout) == (1, "")
    assert "Traceback" not in plain.stderr
    traced = command("--debug", "runs", "127.0.0.1:1")
    assert traced.returncode == 1
    assert "Traceback" in traced.stderr
    assert "_InactiveRpcError" in traced.stderr
    assert traced.stderr.splitlines()[-1] == plain.stderr.strip()


def test_a_mistake_of_this_program_shows_no_traceback_either() -> None:
    plain = command_after(_BROKEN, "runs", "127.0.0.1:1")
    assert plain.returncode == 1
    assert plain.stderr == (
        "an error that should not happen: KeyError: '127.0.0.1:1'. It is a mistake of this program: "
        "`sparsity-monitor --debug …` shows where it comes from\n"
    )
    assert 'File "<string>"' in command_after(_BROKEN, "--debug", "runs", "127.0.0.1:1").stderr


def test_ctrl_c_ends_with_130_and_no_traceback() -> None:
    done = command_after(_INTERRUPTED, "runs", "127.0.0.1:1")
    assert done.returncode == 130
    assert done.stderr == ""


@pytest.mark.parametrize("arguments", ["--help", "runs --help", "--version", "push --help"])
def test_a_reader_that_leaves_early_ends_a_command_quietly(arguments: str) -> None:
    done = shell(f"$S {arguments} | true")
    assert (done.returncode, done.stderr) == (141, "")


def test_a_command_that_reports_what_the_system_refuses_does_not_report_that(tmp_path: Path) -> None:
    done = shell(f"$S grafana generate {tmp_path} | true")
    assert (done.returncode, done.stderr) == (141, "")


def test_output_that_cannot_be_written_is_a_failure() -> None:
    done = shell("$S --version > /dev/full")
    assert done.returncode == 1
    assert done.stderr == "cannot write the output: No space left on device\n"


def test_a_training_environment_gets_the_same_ends() -> None:
    plain = command_after(WITHOUT_TYPER, "push", "/nowhere")
    assert plain.returncode == 1
    assert plain.stderr.startswith("there is no spool")
    assert "Traceback" not in plain.stderr
    assert "Traceback" in command_after(WITHOUT_TYPER, "--debug", "push", "/nowhere").stderr
    assert command_after(WITHOUT_TYPER, "push").returncode == 2


def _completed(*words: str, **environment: str) -> list[str]:
    line = " ".join(["sparsity-monitor", *words])
    variables = {"_SPARSITY_MONITOR_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words))}
    return command(**variables, **environment).stdout.split()


def test_a_shell_can_complete_commands_options_and_runs(url: str) -> None:
    assert _completed("ru") == ["runs"]
    assert _completed("runs", "sh") == ["show"]
    assert _completed("runs", "list", "--state", "f") == ["finished", "failed"]
    assert _completed("runs", "show", "sft", SPARSITY_MONITOR_SERVICE_URL=url) == ["sft-2", "sft-1"]
    assert _completed("export", "grpo", SPARSITY_MONITOR_SERVICE_URL=url) == ["grpo-1"]
    assert _completed("export", "grpo", SPARSITY_MONITOR_SERVICE_URL="http://127.0.0.1:1") == []
    # The shell is the one that the command was started from.
    assert (
        "complete -o default -F _sparsity_monitor_completion sparsity-monitor"
        in shell("$S --show-completion; true").stdout
    )


def test_a_library_that_the_pages_need_is_named_with_what_installs_it(tmp_path: Path) -> None:
    addresses = ("--grpc-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0")
    store = f"sqlite:///{tmp_path / 'store.db'}"
    done = command_after("sys.modules['plotly'] = None", "serve", "--store-url", store, *addresses)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1] == (
        'This command needs more than the training side does, plotly: pip install "sparsity-monitor[service]"'
    )
