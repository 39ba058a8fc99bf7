"""What is broken, one function each: given a directory and how often.

Each returns when every observation has arrived once, with its counts, and raises where one did not.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.faults import clocks, database, disks, network, senders, services
from tests.faults.training import Outcome

BROKEN: dict[str, Callable[[Path, int], Outcome]] = {
    "service killed": services.killed_services,
    "uploader killed": senders.killed_uploaders,
    "training killed": senders.killed_trainings,
    "service stopped": services.stopped_service,
    "uploader stopped": senders.stopped_uploader,
    "training stopped": senders.stopped_training,
    "connections broken": network.broken_connections,
    "packets lost, network cut": network.lost_packets,
    "packets lost at random": network.random_loss,
    "token revoked": services.refused_tokens,
    "disk of the spool full": disks.full_disk_of_spool,
    "disk of the store full": disks.full_disk_of_store,
    "spool full": disks.full_spool,
    "disk of the spool slow": disks.slow_disk_of_spool,
    "disk of the store slow": disks.slow_disk_of_store,
    "PostgreSQL restarted": database.restarted_database,
    "PostgreSQL failed over": database.failed_over_database,
    "clock of the service jumps": clocks.jumping_service,
    "clock of the training apart": clocks.training_apart,
    "1,000 silent connections": services.silent_connections,
    "120 mutated messages": services.mutated_messages,
}

ONLY_LONG = frozenset({"clock of the service jumps", "clock of the training apart"})
"""Not in the fast form: under libfaketime a wait did not end once in about ten starts, and why is not known."""
