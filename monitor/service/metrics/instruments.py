"""What the service counts about itself."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, disable_created_metrics

from monitor.service.quantities.families import family
from monitor.service.settings import LIMITS


class Instruments:
    """Counters of one service process, in a registry of their own."""

    def __init__(self) -> None:
        # One series, the start time of the process, says the same as a creation time per counter.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self.items_stored = self._counter("items_stored_total")
        self.items_duplicate = self._counter("items_duplicate_total")
        self.items_rejected = self._counter("items_rejected_total")
        self.registrations = self._counter("registrations_total")
        self.heartbeats = self._counter("heartbeats_total")
        self.store_errors = self._counter("store_errors_total")
        self.background_errors = self._counter("background_errors_total")
        for work in ("tokens", "certificates", "retention", "standby"):
            self.background_errors.labels(work)
        self.limit_hits = self._counter("limit_hits_total")
        for limit in LIMITS:
            # Starts each series at 0: rate() does not see the step from no series to 1.
            self.limit_hits.labels(limit)
        self.items_removed = self._counter("items_removed_total")
        self.runs_deleted = self._counter("runs_deleted_total")
        for why in ("age", "size"):
            self.runs_deleted.labels(why)
        for why in ("age", "size", "thinned"):
            self.items_removed.labels(why)
        self._certificate: Gauge | None = None
        streams = family("open_streams")
        self.open_streams = Gauge(streams.name, streams.help, registry=self.registry)
        commits = family("store_commit_seconds")
        self.store_commits = Histogram(commits.name, commits.help, registry=self.registry, buckets=COMMIT_SECONDS)

    def certificate_expires(self, at: float) -> None:
        """Show when the service's certificate expires, in seconds since 1970 UTC; without one there is no series."""
        if self._certificate is None:
            expires = family("certificate_expires_timestamp_seconds")
            self._certificate = Gauge(expires.name, expires.help, registry=self.registry)
        self._certificate.set(at)

    def store_is(self, identity: str, *, standby: bool) -> None:
        """Show which store this is, and whether the service takes over where another one has it."""
        known = family("store_info")
        info = Info(known.name.removesuffix("_info"), known.help, registry=self.registry)
        info.info({"store": identity, "standby": str(standby).lower()})

    def _counter(self, name: str) -> Counter:
        counted = family(name)
        return Counter(counted.name, counted.help, counted.labels, registry=self.registry)


COMMIT_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
