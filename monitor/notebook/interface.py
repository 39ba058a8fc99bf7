"""The read interface of a service, /api/v1, as a client without any library: JSON in, errors in words."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from http.client import HTTPException
from ssl import SSLCertVerificationError
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import BaseHandler, HTTPSHandler, OpenerDirector, ProxyHandler, Request, build_opener

from monitor.errors import ReportingError
from monitor.notebook.described import chosen
from monitor.proxies import is_loopback
from monitor.service_url import checked_service_url
from monitor.terminal import printable
from monitor.wire.credentials import CA, TOKEN, TOKEN_FILE, authorization, https_context

Json = dict[str, Any]
Parameters = Mapping[str, object | Sequence[object]]

_PREFIX = "/api/v1"
_RUNS_AT_A_TIME = 1000
_SAID_CHARACTERS = 300


def what_went(run: Mapping[str, Any]) -> Iterator[str]:
    """Yield what was taken out of a run, as /api/v1 describes it, each in a sentence."""
    # An older service takes nothing out.
    if (thinned := run.get("thinned")) is not None:
        yield (
            f"The observations of this run were thinned in the service: up to step {thinned['until_step']:,} at least "
            f"1 in {thinned['every']:,} is left, {thinned['removed']:,} were removed. Do not add up their step counts."
        )
    if (seconds := run.get("deleted_at")) is not None:
        at = datetime.fromtimestamp(seconds, UTC).isoformat(" ", "seconds").removesuffix("+00:00")
        yield f"What this run had reported until {at} UTC was deleted from the service; only what came after is here."


_VERSION = "The service has to be of this version or a newer one, and this its address for browsers."


class NoSuchRunError(ReportingError):
    """The service says that what is asked for is not there."""


class Interface:
    """Reads from the service at a URL, such as http://127.0.0.1:8765.

    Args:
        timeout_seconds: how long to wait for each answer.

    Raises:
        ConfigurationError: no browser could follow the URL, or what the environment says to be let in with cannot be
            used there; see wire/credentials.py.
        ReportingError, from each method: the service cannot be reached, or does not answer what was asked; it says why.
    """

    def __init__(self, url: str, timeout_seconds: float = 60.0) -> None:
        self.url = checked_service_url(url)
        self._timeout_seconds = timeout_seconds
        self._opener = opener(self.url)

    def get(self, *path: str, parameters: Parameters | None = None) -> Any:
        """Return what the service answers at an address below /api/v1.

        Raises:
            NoSuchRunError: it has nothing there.
        """
        query = urlencode({k: v for k, v in (parameters or {}).items() if v is not None}, doseq=True)
        address = "/".join([self.url + _PREFIX, *(quote(part, safe="") for part in path)])
        request = asked(f"{address}?{query}" if query else address, "application/json")
        try:
            with self._opener.open(request, timeout=self._timeout_seconds) as response:
                return json.load(response)
        except HTTPError as error:
            with error:
                raise _refused(self.url, error) from None
        except (OSError, HTTPException) as error:
            cause = getattr(error, "reason", None) or error
            if isinstance(cause, SSLCertVerificationError):
                raise ReportingError(
                    f"cannot reach a service at {self.url}: {cause.verify_message}. Its certificate is not trusted "
                    f"here: name in {CA} the file with that of whoever signed it."
                ) from None
            reason = printable(getattr(cause, "strerror", None) or str(cause)) or type(error).__name__
            raise ReportingError(
                f"cannot reach a service at {self.url}: {reason}. Start one with `sparsity-monitor serve`, or give the "
                "address at which a browser shows its page, by default port 8765; it is not that of gRPC."
            ) from None
        except ValueError:
            raise ReportingError(f"{address} answers, but not as a sparsity-monitor service does. {_VERSION}") from None

    def runs(self, **parameters: object) -> Iterator[Json]:
        """Return the runs that match, page by page, the most recently registered first."""
        after = None
        while True:
            page = self.get("runs", parameters={**parameters, "limit": _RUNS_AT_A_TIME, "after": after})
            yield from page["runs"]
            if (after := page["next_after"]) is None:
                return

    def run(self, wanted: str | None) -> Json:
        """Return one run with its groups.

        Args:
            wanted: its id, or a name that no other run has; None where the service has but one.

        Raises:
            ConfigurationError: it is not clear which run is meant; the message lists them.
        """
        if wanted is not None:
            with suppress(NoSuchRunError):
                return self._run(wanted)
        names = {run["run_id"]: run["name"] for run in self.runs()}
        return self._run(chosen(names, wanted, f"the service at {self.url}"))

    def _run(self, run_id: str) -> Json:
        found: Json = self.get("runs", run_id)
        return found


def opener(url: str) -> OpenerDirector:
    """Return what opens addresses at a URL: through the environment's proxy, unless it is on this machine.

    Raises:
        ConfigurationError: the certificates that the environment names cannot be used.
    """
    place = urlsplit(url)
    handlers: list[BaseHandler] = [HTTPSHandler(context=https_context())] if place.scheme == "https" else []
    handlers += [ProxyHandler({})] if is_loopback(place.hostname or "") else []
    return build_opener(*handlers)


def asked(url: str, accept: str) -> Request:
    """Return the request for an address, with the token of the environment.

    Raises:
        ConfigurationError: it cannot be read, or others could read it on its way.
    """
    place = urlsplit(url)
    request = Request(url, headers={"Accept": accept})
    bearer = authorization(
        f"{place.scheme}://{place.netloc}",
        encrypted=place.scheme == "https",
        is_here=lambda: is_loopback(place.hostname or ""),
    )
    if bearer is not None:
        # Not where the service may redirect to.
        request.add_unredirected_header("Authorization", bearer)
    return request


def _refused(url: str, refusal: HTTPError) -> ReportingError:
    """Return the detail of a problem as in RFC 9457, or else the status."""
    try:
        detail = printable(str(json.load(refusal)["detail"]))[:_SAID_CHARACTERS]
    except (ValueError, KeyError, TypeError, OSError):
        detail = refusal.reason
    if refusal.code in (401, 403, 429):
        hint = f"Set {TOKEN_FILE} or {TOKEN} to a token with the scope read"
        return ReportingError(f"the service at {url} does not let this in: {detail.rstrip('.')}. {hint}")
    # What any server says of an address that it does not have.
    if detail == refusal.reason:
        return ReportingError(f"{url} does not answer: {refusal.code} {detail}. {_VERSION}")
    kind = NoSuchRunError if refusal.code == 404 else ReportingError
    return kind(f"the service at {url} refuses: {detail}")
