"""The environment variables of sparsity-monitor: one for each setting of a run, and one for each of the service.

Both ends read them: limits of the service are set, and known where a training reports to it, by the same variables.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches

PREFIX = "SPARSITY_MONITOR_"

# What the service alone reads. A training must know these names, so as not to take them for misspelt ones of its own.
SERVICE_ALONE = (
    "grpc_address",
    "http_address",
    "service_url",
    "store_url",
    "stalled_after_seconds",
    "lost_after_seconds",
    "finished_grace_seconds",
    "finished_shown_seconds",
    "series_budget",
    "retain_days",
    "thin_after_days",
    "retain_gigabytes",
    "max_runs",
    "max_batch_items",
    "shutdown_seconds",
    "tls_certificate",
    "tls_key",
    "client_ca",
    "tokens_directory",
    "insecure_network",
    "standby",
    "reflection",
)

# How whoever reports to a service, or reads from it, is let in, see wire/credentials.py. No arguments stand for them.
CREDENTIALS = ("token", "token_file", "ca", "client_certificate", "client_key")


def variable(setting: str) -> str:
    """Return the name of the environment variable for a setting.

    >>> variable("run_name")
    'SPARSITY_MONITOR_RUN_NAME'
    """
    return PREFIX + setting.upper()


def misspelt(environment: Mapping[str, str], settings: Iterable[str]) -> dict[str, str | None]:
    """Return the variables with our prefix that nothing reads, each with the one that may be meant.

    >>> misspelt({"SPARSITY_MONITOR_TAGET": "localhost:50051"}, ["target", "every"])
    {'SPARSITY_MONITOR_TAGET': 'SPARSITY_MONITOR_TARGET'}
    """
    known = [variable(setting) for setting in (*settings, *CREDENTIALS)]
    read = {*known, *map(variable, SERVICE_ALONE)}
    unread = sorted(name for name in environment if name.startswith(PREFIX) and name not in read)
    return {name: next(iter(get_close_matches(name, known, n=1, cutoff=0.8)), None) for name in unread}
