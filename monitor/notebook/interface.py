"""The read interface of a service, /api/v1, as a client without any library: JSON in, errors in words."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import ProxyHandler, Request, build_opener

from monitor.errors import ReportingError
from monitor.proxies import is_loopback
from monitor.service_url import DEFAULT_SERVICE_URL, checked_service_url

_PREFIX = "/api/v1"
_TIMEOUT_SECONDS = 60.0

Parameters = Mapping[str, object | Sequence[object]]


class Interface:
    """Reads from the service at a URL, such as http://127.0.0.1:8765.

    Raises:
        ConfigurationError: no browser could follow the URL.
        ReportingError, from `get`: the service cannot be reached, or does not answer what was asked; it says why.
    """

    def __init__(self, url: str) -> None:
        self.url = checked_service_url(url)
        # This machine is never behind a proxy.
        handlers = [ProxyHandler({})] if is_loopback(urlsplit(self.url).hostname or "") else []
        self._opener = build_opener(*handlers)

    def get(self, *path: str, parameters: Parameters | None = None) -> Any:
        """Return what the service answers at an address below /api/v1."""
        query = urlencode({k: v for k, v in (parameters or {}).items() if v is not None}, doseq=True)
        address = "/".join([self.url + _PREFIX, *(quote(part, safe="") for part in path)])
        request = Request(f"{address}?{query}" if query else address, headers={"Accept": "application/json"})
        try:
            with self._opener.open(request, timeout=_TIMEOUT_SECONDS) as response:
                return json.load(response)
        except HTTPError as error:
            with error:
                raise ReportingError(f"{self.url} does not answer: {_said(error)}") from None
        except (URLError, OSError, http.client.HTTPException) as error:
            raise ReportingError(
                f"cannot reach a service at {self.url}: {getattr(error, 'reason', None) or error}. Give the address at "
                f"which a browser shows its page, such as {DEFAULT_SERVICE_URL}; it is not that of gRPC."
            ) from None
        except ValueError:
            raise ReportingError(f"{address} answers, but not as a sparsity-monitor service does. {_VERSION}") from None


_VERSION = "The service has to be of this version or a newer one, and this its address for browsers."


def _said(error: HTTPError) -> str:
    """Return the detail of a problem as in RFC 9457, or else the status."""
    try:
        detail = str(json.load(error)["detail"])
    except (ValueError, KeyError, TypeError, OSError):
        detail = error.reason
    # What any server says of an address that it does not have.
    return f"{error.code} {detail}. {_VERSION}" if detail == error.reason else detail
