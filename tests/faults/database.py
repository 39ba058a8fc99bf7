"""What happens to PostgreSQL, where the store is in it."""

from __future__ import annotations

from pathlib import Path

from tests.eventually import eventually
from tests.faults.services import LOST_SOON, running
from tests.faults.training import ARRIVAL_SECONDS, Outcome, Training
from tests.service.postgresql import running_cluster
from tests.service.running import Client


def restarted_database(directory: Path, times: int) -> Outcome:
    """PostgreSQL is stopped as by a crash, and started again."""
    with running_cluster() as cluster, running(cluster.new_database(), *LOST_SOON) as service:
        training = Training(directory, service.client.listening.grpc_address)
        for _ in range(times):
            training.wait_until_some_arrived(service.client)
            cluster.stop()
            with training.broken():
                _wait_until_told(training, service.client)
            cluster.start()
        training.end()
        return training.assert_whole(service.client)


def failed_over_database(directory: Path, times: int) -> Outcome:
    """PostgreSQL ends as by a crash, and its synchronous replica takes over; then another one follows that."""
    with running_cluster() as first, first.another() as second:
        both = [first, second]
        name = first.new_database_name()
        second.follow(first)
        url = f"postgresql://monitor@/{name}?host={first.host},{second.host}&target_session_attrs=read-write"
        with running(url, *LOST_SOON) as service:
            training = Training(directory, service.client.listening.grpc_address)
            for _ in range(times):
                training.wait_until_some_arrived(service.client)
                main, replica = both
                main.stop()
                with training.broken():
                    _wait_until_told(training, service.client)
                replica.promote()
                training.wait_until_some_arrived(service.client)
                main.follow(replica)
                both.reverse()
            training.end()
            return training.assert_whole(service.client)


def _wait_until_told(training: Training, client: Client) -> None:
    training.train(20)
    training.wait_until_known("the store")
    training.wait_until_told("the store")
    eventually(lambda: client.http.get("/readyz").status_code == 503, ARRIVAL_SECONDS)
    assert (client.metric("store_errors_total") or 0) > 0
    training.wait_until_shown(client, "lost")
