"""`monitor.load_run`: the numbers of a real training, from its directory and from a service, to the integer."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
import threading
import warnings
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from monitor import load_run
from monitor.errors import ConfigurationError, ReportingError, SpoolError
from monitor.report.spool.attempt import AttemptKey
from monitor.report.spool.items import Spool
from monitor.report.spool.places import leave_link
from tests.notebook.conftest import STEPS, Trained
from tests.service.messages import logged, observed, registration
from tests.service.running import Client
from tests.spooled import spooled

FRAMES = ("observations", "groups", "last_groups", "logs", "references")


def test_the_frames_of_a_directory_have_what_the_training_spooled(trained: Trained) -> None:
    run = load_run(trained.output)
    observations = spooled(trained.callback, "observation")
    assert run.observations["step"].tolist() == [each.step for each in observations] == list(range(1, STEPS + 1))
    for name in ("changed", "newly_changed", "reverted", "step_changed", "touched", "hidden", "non_finite"):
        per_group = np.array([getattr(each, name) for each in observations])
        assert run.observations[name].tolist() == per_group.sum(axis=1).tolist(), name
        assert run.groups[name].tolist() == per_group.ravel().tolist(), name
    trained_weights = run.observations["trained"].to_numpy(np.float64)
    changed = run.observations["changed"].to_numpy(np.float64)
    assert 0 < changed[-1] < trained_weights[-1]
    assert run.observations["cumulative_sparsity"].to_numpy() == pytest.approx(1 - changed / trained_weights, rel=1e-15)
    assert run.references["intersection"].tolist() == [sum(each.references[0].intersection) for each in observations]
    logs = spooled(trained.callback, "training_log")
    # At its last step the trainer logs twice.
    last = {(each.step, name): value for each in logs for name, value in each.metrics.items()}
    assert run.logs.set_index(["step", "name"])["value"].to_dict() == last
    assert run.mask is not None
    assert run.mask.metadata.step == STEPS


@pytest.mark.parametrize("name", FRAMES)
def test_a_service_gives_the_same_frames_as_the_directory(trained: Trained, name: str) -> None:
    here, there = load_run(trained.output), load_run(trained.url, trained.run_id)
    expected, found = getattr(here, name), getattr(there, name)
    assert len(expected)
    # Shares are worked out in the database, and there as floats of the same 64 bits.
    pd.testing.assert_frame_equal(found[list(expected)], expected, rtol=1e-15, atol=0)
    assert set(found) == set(expected)


def test_a_run_is_described_alike_from_both(trained: Trained) -> None:
    here, there = load_run(trained.output), load_run(f"{trained.url}/#{trained.run_id}")
    assert load_run(f"{trained.url}/runs/{trained.run_id}").run_id == here.run_id
    for name in ("run_id", "name", "labels", "criterion", "visible_dtype"):
        assert getattr(here.described, name) == getattr(there.described, name), name
    about = here.described
    assert (about.name, about.labels, about.measured_as) == ("tiny <b>", {"seed": "0"}, "bits, bfloat16")
    assert here.described.state == there.described.state == "finished"
    assert here.described.library_versions == there.described.library_versions
    assert f"run {here.run_id} (tiny <b>): {STEPS} observations, finished" in repr(here)


def test_what_the_service_has_is_said_to_be_missing_in_the_directory(trained: Trained) -> None:
    with pytest.warns(UserWarning, match="not in its directory any more, because the service has them"):
        run = load_run(trained.delivered)
    assert len(run.observations) == 0
    assert len(run.groups) == 0
    assert run.run_id == trained.run_id
    assert run.mask is not None
    with pytest.raises(ConfigurationError, match=r"no observation here.* Load the run from the service"):
        run.plot()


def test_the_plot_shows_every_observation_and_names_the_published_bands(trained: Trained) -> None:
    from matplotlib import pyplot

    run = load_run(trained.output)
    axes = run.plot()
    for axis, column in zip(axes, ("cumulative_sparsity", "step_sparsity"), strict=True):
        (line,) = axis.get_lines()
        assert line.get_xdata().tolist() == run.observations["step"].tolist()
        assert line.get_ydata().tolist() == (100 * run.observations[column]).tolist()
        (about, *bands) = [text.get_text() for text in axis.get_legend().get_texts()]
        assert "bits, bfloat16" in about
        assert [band.rsplit(" ", 2)[0] for band in bands] == ["published RL", "published SFT"]
    pyplot.close(axes[0].figure)


def _spool(directory: Path, *runs: str, attempts: int = 1) -> Spool:
    spool = Spool(directory / "sparsity_monitor")
    for run in runs:
        spool.begin(AttemptKey(run, 1), registration(run, name="same").SerializeToString())
        spool.append(AttemptKey(run, 1), [(n, observed(n).SerializeToString()) for n in (1, 2, 3)])
    return spool


def test_several_runs_are_listed_where_none_is_named(tmp_path: Path) -> None:
    _spool(tmp_path, "first", "second").close()
    with pytest.raises(ConfigurationError, match=r"has 2 runs: name one, .*'first' \(same\), 'second' \(same\)"):
        load_run(tmp_path)
    with pytest.raises(ConfigurationError, match="2 runs called 'same'"):
        load_run(tmp_path, "same")
    with pytest.raises(ConfigurationError, match="no run 'third'; there are 'first'"):
        load_run(tmp_path, run="third")
    assert load_run(f"{tmp_path}#second").run_id == load_run(tmp_path, "second").run_id == "second"


def test_a_resume_supersedes_what_was_observed_beyond_it(tmp_path: Path) -> None:
    with closing(_spool(tmp_path, "run")) as spool:
        key = AttemptKey("run", 2)
        spool.begin(key, registration(attempt=2, resumed_from_step=1).SerializeToString())
        spool.append(key, [(1, observed(1, step=2, changed=[0, 99, 1]).SerializeToString())])
    frame = load_run(tmp_path).observations
    assert frame[["step", "attempt", "changed"]].values.tolist() == [[1, 1, 50], [2, 2, 100]]


def test_a_run_that_went_on_elsewhere_is_followed_there(tmp_path: Path) -> None:
    key = AttemptKey("run", 1)
    with closing(_spool(tmp_path / "output", "run")) as spool, closing(_spool(tmp_path / "elsewhere", "run")) as other:
        other.append(key, [(4, observed(4).SerializeToString())])
        spool.leave(key)
        leave_link(spool.directory, key, other.directory)
    run = load_run(tmp_path / "output")
    assert run.observations["step"].tolist() == [1, 2, 3, 4]
    assert not run.described.remarks


def test_what_is_delivered_and_what_is_lost_are_counted_apart(tmp_path: Path) -> None:
    key = AttemptKey("run", 1)
    with closing(_spool(tmp_path, "run")) as spool:
        spool.acknowledge(key, 2)
        # Number 4 was lost before it came here.
        spool.append(key, [(5, observed(5).SerializeToString())])
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        run = load_run(tmp_path)
    assert run.observations["step"].tolist() == [3, 5]
    delivered, lost = (str(each.message) for each in warned)
    assert delivered.startswith("2 of the 5 observations and logs of this run are not in its directory any more")
    assert lost.startswith("1 of the 5 observations and logs of this run are lost")


def test_nothing_is_written_to_a_directory_that_is_read(tmp_path: Path) -> None:
    with closing(_spool(tmp_path, "run")) as spool:
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        assert len(load_run(tmp_path).observations) == 3
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
        # The run that has it open goes on.
        spool.append(AttemptKey("run", 1), [(4, observed(4).SerializeToString())])
    assert len(load_run(tmp_path).observations) == 4
    with pytest.raises(SpoolError, match=r"there is no spool\.sqlite"):
        load_run(tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere").exists()


def test_a_spool_that_was_left_in_a_commit_is_not_misread(tmp_path: Path) -> None:
    _spool(tmp_path / "whole", "run").close()
    torn = tmp_path / "torn"
    torn.mkdir()
    source = tmp_path / "whole/sparsity_monitor/spool.sqlite"
    with closing(sqlite3.connect(source, isolation_level=None)) as connection:
        connection.execute("PRAGMA cache_size=1")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("UPDATE items SET item = randomblob(20000)")
        # As a machine that stopped leaves it: the pages are half new, and the journal has the old ones.
        for name in ("spool.sqlite", "spool.sqlite-journal"):
            (torn / name).write_bytes(source.with_name(name).read_bytes())
    with pytest.raises(SpoolError, match="push` mends the file"):
        load_run(torn)
    Spool(torn).close()
    with closing(Spool(torn)) as mended:
        assert len(mended.attempts()) == 1
    assert load_run(torn).observations["changed"].tolist() == [50, 50, 50]


@pytest.fixture
def long_run(trained: Trained) -> str:
    """More steps than an answer has of groups or of curves, with a gap, and resumed on the way."""
    client: Client = trained.client
    client.register(registration("long"))
    steps = [*range(1, 200), *range(5_000, 5_020)]
    client.send("long", [observed(n, step=step, changed=[0, n % 50, 1]) for n, step in enumerate(steps, 1)])
    client.register(registration("long", attempt=2, resumed_from_step=5_009))
    client.send("long", [observed(n, step=5_009 + n, changed=[0, 7, 0]) for n in range(1, 6)], attempt=2)
    client.send("long", [logged(6, step=5_014, loss=float("nan"))], attempt=2)
    return f"{trained.url}#long"


def test_a_long_run_is_read_whole_and_not_thinned(long_run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monitor.notebook.from_service.POINTS", 60)
    monkeypatch.setattr("monitor.notebook.from_service.GROUP_POINTS", 60)
    run = load_run(long_run)
    steps = [*range(1, 200), *range(5_000, 5_015)]
    assert run.observations["step"].tolist() == steps
    assert run.observations["attempt"].tolist() == [1] * (len(steps) - 5) + [2] * 5
    changed = [n % 50 + 1 for n in range(1, len(steps) - 4)] + [7] * 5
    assert run.observations["changed"].tolist() == changed
    assert run.groups["changed"].to_numpy().reshape(-1, 3).sum(axis=1).tolist() == changed
    assert run.references["intersection"].tolist() == [15] * len(steps)
    assert np.isnan(run.logs["value"].item())


def test_a_service_that_is_not_there_or_is_none_is_said_in_a_sentence(trained: Trained, long_run: str) -> None:
    with pytest.raises(ReportingError, match=r"cannot reach a service at http://127\.0\.0\.1:1: .*refused"):
        load_run("http://127.0.0.1:1")
    with pytest.raises(ReportingError, match="not that of gRPC"):
        load_run(f"http://{trained.client.listening.grpc_address}")
    with pytest.raises(ReportingError, match="refuses: there is nothing at"):
        load_run(f"{trained.url}/nowhere#run")
    with pytest.raises(ConfigurationError, match=r"the service at .* has 2 runs: .*'long' \(a run\)"):
        load_run(trained.url)
    with pytest.raises(ConfigurationError, match="without a password"):
        load_run("http://user:secret@127.0.0.1")


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (404, b'{"detail": "Not Found"}', "404 Not Found. The service has to be of this version or a newer one"),
        (502, b"<html>", "502 Bad Gateway. The service"),
        (200, b"<html>", "but not as a sparsity-monitor service does"),
    ],
)
def test_a_server_that_is_another_one_or_older_is_said_to_be(status: int, body: bytes, said: str) -> None:
    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        with pytest.raises(ReportingError, match=re.escape(said)):
            load_run(f"http://127.0.0.1:{server.server_port}")
        thread.join()


def test_without_pandas_one_sentence_says_what_to_install(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['pandas'] = None\n"
        "import monitor\n"
        "try: monitor.load_run('.')\n"
        "except monitor.errors.MissingLibraryError as error: print(error)\n"
        "print(sorted({'torch', 'grpc', 'sqlalchemy', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        'a run as frames needs pandas, which is not installed: pip install "sparsity-monitor[analysis]"',
        "[]",
    ]
