"""Grafana's HTTP API, through the library grafana-api: the only file that knows it.

It offers folders, data sources and dashboards, and nothing of alert provisioning; what it lacks goes through its own
POST, PUT, GET and DELETE, with paths below /api. It raises one kind of exception for any 4xx, fails on an answer that
is empty or not JSON, and does not wrap connection errors: this file does.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import SplitResult, quote, urlsplit

import requests
from grafana_api.grafana_api import GrafanaException
from grafana_api.grafana_face import GrafanaFace
from requests.adapters import HTTPAdapter
from requests.utils import get_environ_proxies, select_proxy

from monitor.errors import ConfigurationError, SparsityMonitorError
from monitor.proxies import is_loopback, named

_SECONDS = 30.0
# Characters of a message.
_SHOWN = 300
# What is created stays editable in Grafana; applying again brings it back to what the code says.
_EDITABLE = {"X-Disable-Provenance": "true"}


class GrafanaError(SparsityMonitorError, RuntimeError):
    """Grafana cannot be reached, or refused a request."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class _DirectAdapter(HTTPAdapter):
    """Sends without a proxy, whatever the environment says."""

    def send(self, *args: Any, **kwargs: Any) -> requests.Response:
        return super().send(*args, **{**kwargs, "proxies": None})


class Grafana:
    """One Grafana and one token."""

    def __init__(self, url: str, token: str) -> None:
        """Make ready; nothing is sent yet.

        Raises:
            ConfigurationError: the URL or the token cannot be one.
        """
        parts = _parts(url)
        if (
            parts is None
            or parts.scheme not in ("http", "https")
            or not parts.hostname
            or parts.query
            or parts.fragment
        ):
            raise ConfigurationError(
                f"{url!r} was given; expected the URL of a Grafana, such as https://grafana.example"
            )
        if not token.isascii() or not token.strip() or token != token.strip():
            raise ConfigurationError("the token is empty, or has spaces or characters that no token has")
        self.url = url.rstrip("/")
        prefix = parts.path.strip("/")
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        self._api = GrafanaFace(
            token,
            host=host,
            port=parts.port,
            protocol=parts.scheme,
            url_path_prefix=f"{prefix}/" if prefix else "",
            timeout=_SECONDS,
        ).api
        if is_loopback(parts.hostname):
            for scheme in ("http://", "https://"):
                self._api.s.mount(scheme, _DirectAdapter())
        # Following a redirect turns a POST into a GET, whose 200 looks like success.
        self._api.s.hooks["response"].append(self._refuse_redirect)

    def get(self, *path: str, query: str = "") -> dict[str, Any] | None:
        """Return the object that is there, None if there is nothing (404).

        Raises:
            GrafanaError: it cannot be read, or is something else.
        """
        found = self._get(*path, query=query)
        if found is not None and not isinstance(found, dict):
            raise self._unexpected(path, _kind(found), "an object")
        return found

    def get_list(self, *path: str, query: str = "", fields: Sequence[str] = ()) -> list[dict[str, Any]] | None:
        """Return the objects that are there, None if there is nothing (404). Each has the `fields`, which are text.

        Raises:
            GrafanaError: they cannot be read, or are something else.
        """
        found = self._get(*path, query=query)
        return None if found is None else self.checked(found, fields, *path)

    def checked(self, found: Any, fields: Sequence[str], *path: str) -> list[dict[str, Any]]:
        """Return a list that was found there, if it is one of objects that have these fields.

        Raises:
            GrafanaError: it is something else.
        """
        if not isinstance(found, list):
            raise self._unexpected(path, _kind(found), "a list")
        for each in found:
            if not isinstance(each, dict):
                raise self._unexpected(path, f"a list with {_kind(each)}", "a list of objects")
            for name in fields:
                if not isinstance(each.get(name), str):
                    raise self._unexpected(path, f"an entry without {name}", f"a {name} in each")
        return found

    def _get(self, *path: str, query: str) -> Any:
        try:
            found = self._send("GET", _joined(path) + query)
        except GrafanaError as error:
            if error.status == 404:
                return None
            raise
        if found is None:
            raise self._unexpected(path, "nothing (null)", "what is there, or the status 404")
        return found

    def _unexpected(self, path: tuple[str, ...], found: str, expected: str) -> GrafanaError:
        return GrafanaError(
            f"{self.url} answered GET /api{_joined(path)} with {found}; expected {expected}. Is this a Grafana of "
            "version 9.3 or newer, and not a login page, a proxy or another program before it?"
        )

    def post(self, body: Any, *path: str) -> Any:
        """Create something.

        Raises:
            GrafanaError: it was refused.
        """
        return self._send("POST", _joined(path), body)

    def put(self, body: Any, *path: str) -> Any:
        """Replace something.

        Raises:
            GrafanaError: it was refused.
        """
        return self._send("PUT", _joined(path), body)

    def delete(self, *path: str, query: str = "") -> None:
        """Delete something; it may be gone already.

        Raises:
            GrafanaError: it was refused.
        """
        try:
            self._send("DELETE", _joined(path) + query)
        except GrafanaError as error:
            if error.status != 404:
                raise

    def version(self) -> str:
        """Return Grafana's version, "of unknown version" if it does not say."""
        try:
            health = self.get("health") or {}
        except GrafanaError:
            health = {}
        return str(health.get("version", "of unknown version"))

    def _refuse_redirect(self, response: requests.Response, **_: Any) -> None:
        if response.is_redirect:
            raise GrafanaError(
                f"{self.url} redirects {response.request.method} {response.request.path_url} to "
                f"{response.headers['Location']}: give the URL that Grafana itself answers at"
            )

    def _send(self, method: str, path: str, body: Any = None) -> Any:
        headers = _EDITABLE if path.startswith("/v1/provisioning") else None
        request = getattr(self._api, method)
        try:
            return request(path, json=body, headers=headers)
        except GrafanaException as error:
            raise GrafanaError(self._refused(method, path, error), error.status_code) from error
        except requests.exceptions.JSONDecodeError as error:
            # An empty answer is what deleting gives. Anything else that is no JSON comes from something else.
            if method == "DELETE":
                return None
            raise GrafanaError(f"{self.url} answered {method} /api{path} with no JSON: is this a Grafana?") from error
        except requests.exceptions.RequestException as error:
            raise GrafanaError(
                f"{self.url} cannot be reached{_through_proxy(self.url)}: {_reason(error)}. Start Grafana there, or "
                "give the address at which a browser shows it with --url or GRAFANA_URL"
            ) from error
        except TypeError as error:
            # The library looks for a message in a page that is none.
            raise GrafanaError(f"{self.url} refused {method} /api{path} with a page: is this a Grafana?") from error

    def _refused(self, method: str, path: str, error: GrafanaException) -> str:
        said = f"{self.url} answered {error.status_code} to {method} /api{path}: {_message(error)}"
        if error.status_code == 401:
            return f"{said}. The token is wrong or has expired; make one for a service account of this Grafana"
        if error.status_code == 403:
            return (
                f"{said}. The token's service account lacks the right to do this: give it the role Admin. Editor "
                "suffices where --datasource-uid names a data source that exists, and Grafana is 11 or newer or "
                "--no-alerts leaves the alerts out"
            )
        return said


def _parts(url: str) -> SplitResult | None:
    """Return the parts of a URL whose host and port can be ones."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts


def _reason(error: BaseException) -> str:
    """Return what the system said. The libraries in between wrap it, with their own names."""
    while below := error.__cause__ or error.__context__:
        error = below
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _through_proxy(url: str) -> str:
    """Return by which proxy a URL is reached, for a message; empty if by none."""
    parts = urlsplit(url)
    if is_loopback(str(parts.hostname)) or not (proxy := select_proxy(url, get_environ_proxies(url))):
        return ""
    names = (name for scheme in (parts.scheme, "all") for name in (f"{scheme}_proxy", f"{scheme}_proxy".upper()))
    variable = next((name for name in names if os.environ.get(name) == proxy), None)
    return f" through the proxy of {named(variable)}" if variable else ""


def _message(error: GrafanaException) -> str:
    response = error.response
    if isinstance(response, dict) and response.get("message"):
        return _shortened(str(response["message"]))
    if isinstance(response, str) and response.lstrip().startswith("<"):
        title = re.search("<title>(.*?)</title>", response, re.IGNORECASE | re.DOTALL)
        called = f" called {_shortened(title[1])!r}" if title else ""
        return f"a page{called} rather than JSON. Is this a Grafana, and not a proxy or a login page before it?"
    return _shortened(str(error.message or "")) or "no reason given"


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def _kind(found: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return kinds.get(type(found), "a number")


def _joined(path: tuple[str, ...]) -> str:
    return "".join("/" + "/".join(quote(part, safe="") for part in each.split("/")) for each in path)
