"""What the spool holds of an attempt besides its items."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

# In the problem of an attempt whose service does not answer at all, and of one whose service says that it takes
# nothing; see monitor/wire/channel.py, which is not imported by the training process.
UNREACHABLE = "cannot reach the service"
NOTHING_TAKEN = "takes nothing now"


@dataclass(frozen=True)
class AttemptKey:
    """Names one attempt of one run."""

    run_id: str
    attempt: int


@dataclass(frozen=True)
class SentRecord:
    """Where it is noted what was sent of an attempt over the latest connection.

    Attributes:
        path: of a file, from the spool's directory; an empty one where nothing is noted.
        settled: the items up to this number are acknowledged or rejected, and counted so.
    """

    path: str = ""
    settled: int = 0

    def in_directory(self, directory: Path) -> SentRecord:
        """Return the same as another spool knows it."""
        return replace(self, path=str(directory / self.path)) if self.path else self


@dataclass(frozen=True)
class Counts:
    """What is taken along of an attempt that goes on in another spool.

    Attributes:
        last_sequence: highest sequence number that was appended.
        dropped: see SpooledAttempt.
        sent: record of what was sent of it.
    """

    last_sequence: int
    dropped: int
    sent: SentRecord = field(default_factory=SentRecord)


@dataclass(frozen=True)
class SpooledAttempt:
    """What the spool knows of an attempt.

    Attributes:
        registration: serialized Registration message.
        finished: a Finish item was appended.
        registered: the service accepted the attempt.
        dropped: items that the service will never have: left out because the spool was full, never appended because the
            disk was slow or away, lost with a spool that was damaged, or refused by the service. Of what is left out on
            its way, this counts what is not known to have arrived yet.
        last_sequence: highest sequence number that was appended.
        unsent: items that are not acknowledged.
        problem: why the uploader cannot deliver; empty if it can.
        refused: trying again does not help while the problem lasts.
        rejected: of the dropped ones, those that the service refused.
        rejection: why it refused the last of them.
        first_unsent: lowest sequence number that is not acknowledged; None where all are.
    """

    key: AttemptKey
    registration: bytes
    finished: bool
    registered: bool
    dropped: int
    last_sequence: int
    unsent: int
    problem: str
    refused: bool = False
    rejected: int = 0
    rejection: str = ""
    first_unsent: int | None = None
