from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest

from monitor.errors import SpoolError
from monitor.report.spool.attempt import AttemptKey, Counts
from monitor.report.spool.file import SPOOL_FILE
from monitor.report.spool.items import Spool
from monitor.report.spool.on_the_way import OnTheWay, noted, remove_records
from monitor.wire import monitor_pb2 as pb

KEY = AttemptKey("run", 1)


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    spool = Spool(tmp_path)
    spool.begin(KEY, b"registration")
    return spool


def test_items_come_back_in_order_until_they_are_acknowledged(spool: Spool) -> None:
    spool.append(KEY, [(1, b"a"), (2, b"b")])
    spool.append(KEY, [(3, b"c")])
    assert spool.unsent(KEY, after=0, limit=2) == [(1, b"a"), (2, b"b")]
    assert spool.unsent(KEY, after=2, limit=2) == [(3, b"c")]
    spool.acknowledge(KEY, 2)
    assert spool.unsent(KEY, after=0, limit=9) == [(3, b"c")]


def test_acknowledging_one_attempt_keeps_the_other(spool: Spool) -> None:
    other = AttemptKey("run", 2)
    spool.begin(other, b"registration")
    spool.append(KEY, [(1, b"a")])
    spool.append(other, [(1, b"b")])
    spool.acknowledge(KEY, 1)
    assert [attempt.unsent for attempt in spool.attempts()] == [0, 1]


def test_what_is_committed_is_there_for_another_process(spool: Spool, tmp_path: Path) -> None:
    spool.append(KEY, [(1, b"a")], finished=True)
    attempt = Spool(tmp_path).attempt(KEY)
    assert (attempt.registration, attempt.finished, attempt.last_sequence, attempt.unsent) == (
        b"registration",
        True,
        1,
        1,
    )


def test_a_batch_is_committed_whole_or_not_at_all(spool: Spool) -> None:
    with pytest.raises(SpoolError, match=r"cannot keep observations.*NOT NULL"):
        spool.append(KEY, [(1, b"a"), (2, None)])
    assert spool.unsent(KEY, after=0, limit=9) == []


def test_a_commit_that_finds_the_file_locked_can_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monitor.report.spool.file._BUSY_SECONDS", 0.05)
    spool = Spool(tmp_path)
    spool.begin(KEY, b"registration")
    reader = sqlite3.connect(tmp_path / SPOOL_FILE)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM attempts").fetchall()
    with pytest.raises(SpoolError, match="locked"):
        spool.append(KEY, [(1, b"a")])
    reader.close()
    spool.append(KEY, [(1, b"a")])
    assert spool.unsent(KEY, after=0, limit=9) == [(1, b"a")]


@pytest.mark.parametrize(
    "use",
    [
        lambda spool: spool.latest_attempt("run"),
        lambda spool: spool.begin(AttemptKey("run", 2), b"registration"),
        lambda spool: spool.append(KEY, [(1, b"a")]),
        lambda spool: spool.newest(),
        lambda spool: spool.attempts(),
        lambda spool: spool.attempt(KEY),
        lambda spool: spool.unsent(KEY, after=0, limit=1),
        lambda spool: spool.larger_than(KEY, 1),
        lambda spool: spool.acknowledge(KEY, 1),
        lambda spool: spool.reject(KEY, 1, "malformed"),
        lambda spool: spool.set_registered(KEY),
        lambda spool: spool.set_problem(KEY, "away"),
    ],
)
def test_trouble_with_the_file_is_a_spool_error_whatever_is_asked(
    use: Callable[[Spool], object], spool: Spool, tmp_path: Path
) -> None:
    (tmp_path / SPOOL_FILE).write_bytes(b"something else " * 1000)
    with pytest.raises(SpoolError, match=r"is damaged: file is not a database\..*look after the disk"):
        use(spool)


def test_an_attempt_that_began_elsewhere_is_a_spool_error(spool: Spool) -> None:
    with pytest.raises(SpoolError, match="does not hold attempt 2 of run 'run'"):
        spool.attempt(AttemptKey("run", 2))


def test_items_of_an_attempt_that_is_not_there_are_a_spool_error(spool: Spool) -> None:
    """As where a copy of the file from before the attempt was put back in its place: nobody would deliver them."""
    with pytest.raises(SpoolError, match="does not hold attempt 2 of run 'run'"):
        spool.append(AttemptKey("run", 2), [(1, b"a")])
    assert spool.unsent(AttemptKey("run", 2), after=0, limit=9) == []


def test_the_training_process_wins_over_its_presumed_end(spool: Spool) -> None:
    spool.append(KEY, [(1, b"presumed dead")], finished=True)
    spool.append(KEY, [(1, b"alive")])
    assert spool.unsent(KEY, after=0, limit=9) == [(1, b"alive")]


def test_beyond_its_bound_items_are_thinned_out_evenly_and_counted(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=200_000)
    spool.begin(KEY, b"registration")
    for sequence in range(1, 201):
        spool.append(KEY, [(sequence, bytes(10_000))])
    kept = [sequence for sequence, _ in spool.unsent(KEY, after=0, limit=999)]
    assert (kept[0], kept[-1]) == (1, 200)
    assert 10 < len(kept) < 20
    gaps = [later - earlier for earlier, later in pairwise(kept)]
    assert max(gaps) <= 3 * 200 / len(kept)
    assert spool.attempt(KEY).dropped == 200 - len(kept)
    assert (tmp_path / SPOOL_FILE).stat().st_size < 300_000


def test_observations_logs_and_attempts_are_thinned_out_apart(tmp_path: Path) -> None:
    """Of what alternates, every second is all of one kind."""
    spool = Spool(tmp_path, max_bytes=100_000)
    keys = [AttemptKey("run", number) for number in (1, 2)]
    for key in keys:
        spool.begin(key, b"registration")
        for number in range(1, 300, 2):
            observation = pb.Item(sequence=number, observation=pb.Observation(step=number, changed=[10**15] * 100))
            log = pb.Item(sequence=number + 1, training_log=pb.TrainingLog(step=number, metrics={"m" * 500: 1.0}))
            spool.append(key, [(item.sequence, item.SerializeToString()) for item in (observation, log)])
        end = pb.Item(sequence=301, finish=pb.Finish(step=300))
        spool.append(key, [(301, end.SerializeToString())], finished=True)
    for key in keys:
        items = [pb.Item.FromString(item) for _, item in spool.unsent(key, after=0, limit=999)]
        by_kind = {kind: [i.sequence for i in items if i.HasField(kind)] for kind in ("observation", "training_log")}
        assert (by_kind["observation"][0], by_kind["observation"][-1]) == (1, 299)
        assert (by_kind["training_log"][0], by_kind["training_log"][-1]) == (2, 300)
        assert min(map(len, by_kind.values())) > 5
        assert items[-1].HasField("finish")
        assert spool.attempt(key).dropped == 301 - len(items)


def test_without_a_bound_nothing_is_dropped(tmp_path: Path) -> None:
    """As for the uploader, which notes the end of a killed training."""
    spool = Spool(tmp_path, max_bytes=None)
    spool.begin(KEY, b"registration")
    for sequence in range(1, 5):
        spool.append(KEY, [(sequence, bytes(10_000_000))])
    assert spool.attempt(KEY).dropped == 0
    assert spool.attempt(KEY).unsent == 4


def test_numbers_that_never_got_here_count_as_dropped(spool: Spool) -> None:
    spool.append(KEY, [(3, b"a"), (4, b"b")])
    assert spool.attempt(KEY).dropped == 2
    spool.append(KEY, [(5, b"c"), (7, b"d")])
    spool.append(KEY, [(8, b"e")])
    assert spool.attempt(KEY).dropped == 3


def test_the_newest_item_is_kept_however_large(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=1000)
    spool.begin(KEY, b"registration")
    spool.append(KEY, [(1, bytes(50_000))])
    assert [sequence for sequence, _ in spool.unsent(KEY, after=0, limit=9)] == [1]


def test_a_rejected_item_is_put_aside_not_sent_again(spool: Spool, tmp_path: Path) -> None:
    spool.append(KEY, [(1, b"bad"), (2, b"good")])
    spool.reject(KEY, 1, "malformed")
    assert spool.unsent(KEY, after=0, limit=9) == [(2, b"good")]
    rows = sqlite3.connect(tmp_path / SPOOL_FILE).execute("SELECT sequence, item, reason FROM rejected").fetchall()
    assert rows == [(1, b"bad", "malformed")]
    spool.reject(KEY, 1, "malformed")
    assert spool.attempt(KEY).dropped == 1


def test_what_was_rejected_leaves_the_full_spool_first_and_stays_counted(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=100_000)
    spool.begin(KEY, b"registration")
    for sequence in range(1, 31):
        spool.append(KEY, [(sequence, bytes(10_000))])
        spool.reject(KEY, sequence, "the step is too large")
    spool.append(KEY, [(sequence, bytes(10_000)) for sequence in range(31, 36)])
    assert [sequence for sequence, _ in spool.unsent(KEY, 0, 99)] == [*range(31, 36)]
    attempt = spool.attempt(KEY)
    assert (attempt.dropped, attempt.rejected, attempt.rejection) == (30, 30, "the step is too large")
    assert (tmp_path / SPOOL_FILE).stat().st_size < 200_000


def test_attempts_are_counted_per_run(spool: Spool) -> None:
    assert spool.latest_attempt("run") == 1
    assert spool.latest_attempt("another run") == 0


def test_a_directory_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SpoolError, match=r"cannot keep observations in .*file/spool.*directory"):
        Spool(tmp_path / "file" / "spool")


def test_a_file_that_is_no_spool_is_a_clear_error_and_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / SPOOL_FILE).write_bytes(b"something else " * 100)
    with pytest.raises(SpoolError, match="is damaged: file is not a database"):
        Spool(tmp_path)
    assert (tmp_path / SPOOL_FILE).read_bytes() == b"something else " * 100


def test_a_spool_that_cannot_be_written_can_be_read(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool.append(KEY, [(1, b"a")])
    monkeypatch.setattr("monitor.report.spool.file._BUSY_SECONDS", 0.01)
    writer = sqlite3.connect(tmp_path / SPOOL_FILE, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    locked = Spool(tmp_path)
    assert locked.unsent(KEY, after=0, limit=9) == [(1, b"a")]
    assert locked.counts(KEY) == Counts(1, 0)
    writer.close()


def test_a_spool_of_a_newer_version_is_refused(spool: Spool, tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / SPOOL_FILE)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(SpoolError, match="format version 99"):
        Spool(tmp_path)


def remove_directory(directory: Path) -> None:
    shutil.rmtree(directory)


def remove_file(directory: Path) -> None:
    (directory / SPOOL_FILE).unlink()


@pytest.mark.parametrize(
    ("remove", "gone"), [(remove_directory, "the directory was removed"), (remove_file, f"{SPOOL_FILE} was removed")]
)
def test_a_spool_that_is_gone_is_not_said_to_be_a_fault_of_the_disk(
    remove: Callable[[Path], None], gone: str, tmp_path: Path
) -> None:
    spool = Spool(tmp_path / "out")
    spool.begin(KEY, b"registration")
    remove(tmp_path / "out")
    for use in (spool.check_in_place, lambda: spool.append(KEY, [(1, b"a")])):
        with pytest.raises(SpoolError, match=f"cannot keep observations in .*out': {gone} or moved away while it was"):
            use()


def _full(tmp_path: Path, items: int) -> tuple[Spool, int]:
    """A spool that has left items out, and how many."""
    spool = Spool(tmp_path, max_bytes=100_000)
    spool.begin(KEY, b"registration")
    for sequence in range(1, items + 1):
        spool.append(KEY, [(sequence, bytes(10_000))])
    return spool, spool.attempt(KEY).dropped


def test_what_was_left_out_on_its_way_and_arrived_is_not_dropped(tmp_path: Path) -> None:
    spool, dropped = _full(tmp_path, 20)
    assert dropped > 9
    spool.acknowledge(KEY, 9, sent=range(1, 10))
    kept = [sequence for sequence, _ in spool.unsent(KEY, 0, 99)]
    assert spool.attempt(KEY).dropped == 11 - len(kept)
    # Of what comes after it, nothing was sent.
    spool.acknowledge(KEY, 20, sent=kept)
    assert spool.attempt(KEY).dropped == 11 - len(kept)


def test_what_the_service_has_when_it_is_reached_again_is_not_dropped_and_stays(tmp_path: Path) -> None:
    spool, _ = _full(tmp_path, 20)
    here = [sequence for sequence, _ in spool.unsent(KEY, 0, 99)]
    known, record = spool.begin_sending(KEY, 9, range(1, 10))
    assert known == noted(tmp_path / record) == [sequence for sequence in here if sequence <= 9]
    assert [sequence for sequence, _ in spool.unsent(KEY, 0, 99)] == here
    assert spool.attempt(KEY).dropped == 11 - len([sequence for sequence in here if sequence > 9])


def test_an_uploader_knows_what_the_one_before_it_sent_and_counts_nothing_twice(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.begin(KEY, b"registration")
    spool.append(KEY, [(sequence, b"item") for sequence in range(1, 10)])
    sent = OnTheWay(tmp_path)
    assert spool.sent_before(KEY) == []
    sent.begin_again(*spool.begin_sending(KEY, 2, []))
    sent.send((1, 2, 3, 4, 5, 6))
    assert spool.sent_before(KEY) == [1, 2, 3, 4, 5, 6]
    spool.reject(KEY, 9, "too large", answered=False)
    spool.acknowledge(KEY, 2, [1, 2])
    assert spool.sent_before(KEY) == [3, 4, 5, 6]
    spool.reject(KEY, 3, "the step is too large")
    assert spool.sent_before(KEY) == [4, 5, 6]
    elsewhere = Spool(tmp_path / "elsewhere")
    elsewhere.take_over(KEY, b"registration", [], lost=spool, counts=spool.counts(KEY))
    assert elsewhere.sent_before(KEY) == [4, 5, 6]
    # A connection that brought no more than it had: what was sent, and is not there, arrives no more.
    sent.begin_again(*spool.begin_sending(KEY, 4, sent.up_to(4)))
    assert spool.sent_before(KEY) == [4]
    assert len([*tmp_path.glob("on-the-way-*")]) == 2
    remove_records(tmp_path, spool.records())
    assert [path.name for path in tmp_path.glob("on-the-way-*")] == spool.records()
    sent.close()


def test_a_spool_of_an_earlier_version_is_read_and_noted_in(spool: Spool, tmp_path: Path) -> None:
    """It has no table for what was sent, and none for addresses that refuse."""
    with closing(Spool(tmp_path, read_only=True)) as reader:
        assert reader.refusing() == {}
        assert reader.sent_before(KEY) == reader.records() == []
    spool.set_refusing({"host:1": "it speaks another protocol"})
    assert Spool(tmp_path).refusing() == {"host:1": "it speaks another protocol"}
