"""The read interface /api/v1 of a service, over HTTP with nothing but Python: what the commands about runs read.

It has all of a run as JSON, thinned and added up; over gRPC, the items themselves would have to be.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.client import BadStatusLine, HTTPException, LineTooLong
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import OpenerDirector, ProxyHandler, Request, build_opener

from monitor.errors import ConfigurationError, ReportingError, name_some
from monitor.proxies import is_loopback
from monitor.service_url import checked_service_url
from monitor.terminal import printable

Json = dict[str, Any]

_SECONDS = 30.0
_PREFIX = "/api/v1"
_SHOWN_CHARACTERS = 300
_HINT = "Expected where the service has its pages, by default port 8765; --service-url says another."


class NoSuchRunError(ReportingError):
    """The service knows no run of that id."""


class Interface:
    """One service, at the URL of its pages.

    Raises:
        ConfigurationError: the URL cannot be one.
    """

    def __init__(self, url: str) -> None:
        try:
            self.url = checked_service_url(url)
        except ConfigurationError as error:
            raise ConfigurationError(f"--service-url: {error}") from error
        self._opener = opener(self.url)

    def get(self, path: str, **parameters: object) -> Any:
        """Return what the service answers.

        Args:
            path: below /api/v1.
            parameters: of the query; a list for one that may be given several times.

        Raises:
            NoSuchRunError: it says that there is none.
            ReportingError: it cannot be reached, refuses, or is no such service.
        """
        query = f"?{urlencode(parameters, doseq=True)}" if parameters else ""
        request = Request(f"{self.url}{_PREFIX}{path}{query}", headers={"Accept": "application/json"})
        try:
            with self._opener.open(request, timeout=_SECONDS) as answer:
                return json.load(answer)
        except HTTPError as refusal:
            raise _refused(self.url, refusal) from refusal
        except (BadStatusLine, LineTooLong) as error:
            raise _no_service(self.url, "no HTTP") from error
        except (OSError, HTTPException) as error:
            reason = error.reason if isinstance(error, URLError) else error
            said = printable(str(reason)) or type(reason).__name__
            raise ReportingError(f"cannot reach the service at {self.url}: {said}. {_HINT}") from error
        except ValueError as error:
            raise _no_service(self.url) from error

    def runs(self, **parameters: object) -> Iterator[Json]:
        """Return the runs that match, page by page, the most recently registered first."""
        while True:
            page = self.get("/runs", **parameters)
            yield from page["runs"]
            if page["next_after"] is None:
                return
            parameters["after"] = page["next_after"]

    def run(self, name: str) -> Json:
        """Return one run with its groups, by its id, or by a name that no other run has.

        Raises:
            NoSuchRunError: there is none, or several have the name.
            ReportingError: as `get`.
        """
        try:
            found: Json = self.get(run_path(name))
        except NoSuchRunError:
            named = [run["run_id"] for run in self.runs(search=name) if run["name"] == name]
            if len(named) != 1:
                raise _not_the_one(self.url, name, named) from None
            found = self.get(run_path(named[0]))
        return found


def opener(url: str) -> OpenerDirector:
    """Return what opens addresses at a URL: through the environment's proxy, unless it is on this machine."""
    direct = is_loopback(urlsplit(url).hostname or "")
    return build_opener(ProxyHandler({}) if direct else ProxyHandler())


def run_path(run_id: str, below: str = "") -> str:
    """Return the path of what there is about a run."""
    return f"/runs/{quote(run_id, safe='')}{below}"


def _refused(url: str, refusal: HTTPError) -> ReportingError:
    with refusal:
        text = refusal.read(65536)
    try:
        detail = printable(str(json.loads(text)["detail"]))
    except (ValueError, KeyError, TypeError):
        return _no_service(url, f"HTTP status {refusal.code}")
    if refusal.code == 404:
        return NoSuchRunError(detail)
    return ReportingError(f"the service at {url} answers {refusal.code}: {detail[:_SHOWN_CHARACTERS]}")


def _no_service(url: str, answer: str = "something else than JSON") -> ReportingError:
    return ReportingError(
        f"what answers at {url} is no service of sparsity-monitor, or one older than /api/v1: {answer}. {_HINT}"
    )


def _not_the_one(url: str, name: str, named: list[str]) -> NoSuchRunError:
    shown = repr(printable(name))
    if named:
        ids = name_some([printable(each) for each in named])
        return NoSuchRunError(f"{len(named)} runs at {url} are called {shown}: give the id of one, such as {ids}")
    return NoSuchRunError(f"no run at {url} has the id or name {shown}; `sparsity-monitor runs list` names those there")
