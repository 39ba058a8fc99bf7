from __future__ import annotations

import pytest
from pydantic import ValidationError

from monitor.service.settings import ServiceSettings, hide_password, split_address


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("localhost:65535", ("localhost", 65535)),
        ("[::1]:50051", ("::1", 50051)),
        ("my-host.example:1", ("my-host.example", 1)),
    ],
)
def test_an_address_has_a_host_and_a_port(address: str, parts: tuple[str, int]) -> None:
    assert split_address(address) == parts


@pytest.mark.parametrize(
    "address", ["", "localhost", ":80", "localhost:", "localhost:65536", "http://localhost:80", "::1:80", "a b:80"]
)
def test_a_bad_address_is_answered_with_what_was_given_and_what_was_expected(address: str) -> None:
    with pytest.raises(ValidationError) as refused:
        ServiceSettings(grpc_address=address)
    assert repr(address) in str(refused.value)
    assert "expected host:port" in str(refused.value)
    assert "127.0.0.1:50051" in str(refused.value)


@pytest.mark.parametrize("url", ["store.db", "mysql://localhost/x", "sqlite://", "sqlite:///:memory:", ""])
def test_a_store_that_would_not_keep_anything_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="expected sqlite:///FILE") as refused:
        ServiceSettings(store_url=url)
    assert repr(url) in str(refused.value)


@pytest.mark.parametrize("url", ["sqlite:///store.db", "sqlite:////var/store.db", "postgresql://me:x@host/db"])
def test_stores_that_keep_what_they_are_given_are_taken(url: str) -> None:
    assert ServiceSettings(store_url=url).store_url == url


def test_no_error_shows_the_password_of_the_store() -> None:
    with pytest.raises(ValidationError) as refused:
        ServiceSettings(store_url="mysql://me:s3cret@host/db")
    assert "s3cret" not in str(refused.value)
    with pytest.raises(ValidationError) as refused:
        ServiceSettings(store_url="postgresql://me:s3cret@host/db", grpc_address="nowhere")
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    "url", ["postgresql://me:s3cret@host/db", "postgresql://me:s3@cret@host/db", "no url at all://me:s3cret@host"]
)
def test_a_shown_url_has_no_password(url: str) -> None:
    shown = hide_password(url)
    assert "cret" not in shown
    assert shown.endswith("@host/db") or shown.endswith("@host")


@pytest.mark.parametrize(
    ("url", "begins"),
    [
        ("", ""),
        ("https://monitor.example", "https://monitor.example"),
        ("https://ml.example/sparsity/", "https://ml.example/sparsity"),
        ("http://[::1]:8765/", "http://[::1]:8765"),
        ("HTTP://my_host:80", "HTTP://my_host:80"),
    ],
)
def test_links_begin_with_where_browsers_find_the_service(url: str, begins: str) -> None:
    assert ServiceSettings(service_url=url).service_url == begins


@pytest.mark.parametrize(
    "url",
    [
        "monitor.example",
        "/runbook",
        "ftp://monitor.example",
        "http://",
        "http://host:99999",
        "http://me:s3cret@host",
        "https://host/?a=b",
        "https://host/#a",
        "https://host/$HOME",
        "https://host/{{.Labels.run}}",
        "https://host/a b",
        "https://host\n",
        "javascript:alert(1)//",
    ],
)
def test_a_link_that_no_browser_or_template_could_follow_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="expected where browsers find the service, such as https://"):
        ServiceSettings(service_url=url)


@pytest.mark.parametrize("limit", ["max_runs", "max_groups", "series_budget", "max_batch_items", "max_request_bytes"])
def test_a_service_that_could_take_nothing_is_refused(limit: str) -> None:
    with pytest.raises(ValidationError, match=limit):
        ServiceSettings(**{limit: 0})


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_times_are_finite_and_positive(seconds: float) -> None:
    with pytest.raises(ValidationError, match="lost_after_seconds"):
        ServiceSettings(lost_after_seconds=seconds)


def test_an_unknown_setting_is_named() -> None:
    with pytest.raises(ValidationError, match="max_rnus"):
        ServiceSettings.model_validate({"max_rnus": 1})


def test_every_setting_says_what_it_is() -> None:
    assert [name for name, field in ServiceSettings.model_fields.items() if not field.description] == []


def test_several_servers_of_one_database_are_named_in_a_way_that_is_told() -> None:
    """As libpq writes them, they are no URL that SQLAlchemy reads."""
    with pytest.raises(ValidationError, match="host=FIRST:5432&host=SECOND:5432&target_session_attrs") as error:
        ServiceSettings(store_url="postgresql://me:s3cret@one:5432,two:5432/db")
    assert "s3cret" not in str(error.value)
    url = "postgresql://me:s3cret@/db?host=one:5432&host=two:5432&target_session_attrs=read-write"
    assert ServiceSettings(store_url=url).store_url == url
