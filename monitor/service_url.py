"""Where browsers find the service: what links to its pages begin with, in the service and in what Grafana gets."""

from __future__ import annotations

import re

from monitor.errors import ConfigurationError

DEFAULT_SERVICE_URL = "http://127.0.0.1:8765"
"""Where a service with its default address is, and that of deploy/compose.yaml."""

# No dollar sign and no braces: alerts, rules and provisioning files would take them for templates and variables.
_URL = re.compile(
    r"https?://(?:\[[0-9a-f:.]+\]|[\w.-]+)(?::(?P<port>\d{1,5}))?(?:/[\w.~%/+-]*)?", re.ASCII | re.IGNORECASE
)


def checked_service_url(url: str) -> str:
    """Return the URL as links are made from it, without a slash at its end.

    >>> checked_service_url("https://ml.example/sparsity/")
    'https://ml.example/sparsity'

    Raises:
        ConfigurationError: no browser could follow it.
    """
    match = _URL.fullmatch(url)
    if match is None or int(match["port"] or 0) > 65535:
        several = ". It is one address: of services that take over from each other, the one that serves"
        raise ConfigurationError(
            f"{url!r} was given; expected where browsers find the service, such as https://monitor.example or "
            f"{DEFAULT_SERVICE_URL}: http or https, without a password, a query or a fragment" + several * ("," in url)
        )
    return url.rstrip("/")
