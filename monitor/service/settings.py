"""What a user can set about the service: addresses, store, limits, times. The command line is made from this model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from monitor.limits import Limits
from monitor.service_url import checked_service_url

DEFAULT_STORE = "sparsity-monitor.db"
"""The file of a store for which nobody has said where it is, in the current directory."""

_ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[^\s:\[\]/]+):(?P<port>\d{1,5})")

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Days = Annotated[float | None, Field(gt=0, allow_inf_nan=False)]


def split_address(address: str) -> tuple[str, int]:
    """Split "host:port" into host and port; the brackets of an IPv6 address are taken off.

    >>> split_address("[::1]:50051")
    ('::1', 50051)

    Raises:
        ValueError: it is not host:port with a port from 0 to 65535.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None or int(match["port"]) > 65535:
        raise ValueError(
            f"{address!r} was given; expected host:port with a port from 0 to 65535 (0 takes a free one), such as "
            "127.0.0.1:50051, [::1]:50051, or 0.0.0.0:50051 to listen on all interfaces"
        )
    return match["host"].strip("[]"), int(match["port"])


def hide_password(url: str) -> str:
    """Return a store URL that can be shown: the password is replaced, also where the rest is no valid URL."""
    return re.sub(r"(://[^:/@]*:).*@", r"\1***@", url)


class ServiceSettings(BaseModel):
    """Settings of one service process. Times are in seconds, sizes in bytes.

    Raises:
        pydantic.ValidationError: a value cannot work; the message says what was given, what was expected, what to do.
    """

    # Otherwise a validation error would show the store URL with its password.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    grpc_address: str = Field("127.0.0.1:50051", description="host:port where training runs report to, by gRPC")
    http_address: str = Field("127.0.0.1:8765", description="host:port of metrics, API and pages")
    service_url: str = Field(
        "",
        description="Where browsers find the pages, such as https://monitor.example: links to them begin with it. "
        "By default the HTTP address",
    )
    store_url: str = Field(
        f"sqlite:///{DEFAULT_STORE}",
        description="Where observations are kept: sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE",
    )

    standby: bool = Field(
        False,
        description="Where another service has the store, wait for it instead of giving up, and serve as soon as it "
        "ends. Of a pair, give it to both. For a store in PostgreSQL",
    )

    tls_certificate: Path | None = Field(
        None,
        description="Certificate of the service, in PEM format, with those between it and who signed it: gRPC and HTTP "
        "are encrypted",
    )
    tls_key: Path | None = Field(None, description="Key of that certificate, in PEM format, without a password")
    client_ca: Path | None = Field(
        None,
        description="Certificate, in PEM format, of who signs those of clients: nobody without one is let in, also not "
        "to health checks",
    )
    tokens_directory: Path | None = Field(
        None,
        description="Directory with tokens, such as a mounted secret: files named write, read, metrics or administer, "
        "in each a token that allows this. They count beside those of `sparsity-monitor token`",
    )
    insecure_network: bool = Field(
        False, description="Listen elsewhere than on this machine without tokens: all who reach it may write and read"
    )
    reflection: bool = Field(
        False, description="Describe the gRPC services to who asks also where tokens are asked for: the scope is read"
    )

    stalled_after_seconds: Seconds = Field(
        1800,
        description="A run without a new observation for this long is stalled, while its sender is alive, until five "
        "pauses between its observations are known; from then on, after three times the longest of them, or a third of "
        "this where that is longer",
    )
    lost_after_seconds: Seconds = Field(120, description="A run whose sender is silent for this long is lost")
    finished_grace_seconds: float = Field(
        900,
        ge=0,
        allow_inf_nan=False,
        description="Series of groups and training metrics leave /metrics this long after a run ended or was lost",
    )
    finished_shown_seconds: float = Field(
        7 * 24 * 3600,
        ge=0,
        allow_inf_nan=False,
        description="All other series of such a run leave /metrics after this long; store, API and pages keep it",
    )
    series_budget: Count = Field(
        200_000, description="Above this many series the largest runs fall back to run-level series"
    )

    retain_days: Days = Field(
        None,
        description="A run that has ended, or was lost, is deleted when nothing was heard of it for so many days. By "
        "default runs stay for ever",
    )
    thin_after_days: Days = Field(
        None,
        description="Of a run that has ended so many days ago, 1000 observations stay: the first, the last and every "
        "k-th between. By default all do",
    )
    retain_gigabytes: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="Above so many gigabytes (10^9 bytes) in the store, runs that have ended are thinned in the same "
        "way, then deleted, each time the one that has been silent longest. In PostgreSQL the size is estimated. By "
        "default there is no bound",
    )

    max_request_bytes: int = Field(Limits.max_request_bytes, ge=4096, description="Largest request that is taken")
    max_runs: Count = Field(1000, description="Runs in the store")
    max_groups: Count = Field(Limits.max_groups, description="Groups (layer, module) of a run")
    max_references: int = Field(Limits.max_references, ge=0, description="Reference masks of a run")
    max_tolerances: int = Field(Limits.max_tolerances, ge=0, description="Tolerances of a run")
    max_labels: int = Field(Limits.max_labels, ge=0, description="Labels of a run")
    max_label_length: int = Field(Limits.max_label_length, ge=16, description="Characters of any name, label or module")
    max_training_metrics: int = Field(
        Limits.max_training_metrics, ge=0, description="Metrics in one log of the trainer; of more, these are kept"
    )
    max_batch_items: Count = Field(64, description="Items of one run that are stored in one transaction")
    shutdown_seconds: Seconds = Field(5, description="Time that open requests get to end at a shutdown")

    @field_validator("grpc_address", "http_address")
    @classmethod
    def _is_address(cls, address: str) -> str:
        split_address(address)
        return address

    @field_validator("service_url")
    @classmethod
    def _is_service_url(cls, url: str) -> str:
        return checked_service_url(url) if url else ""

    @field_validator("store_url")
    @classmethod
    def _is_store_url(cls, url: str) -> str:
        # Imported here: every command reads this model for its options, and only `serve` needs SQLAlchemy.
        from sqlalchemy.engine import make_url
        from sqlalchemy.exc import ArgumentError

        try:
            parsed = make_url(url)
        except ArgumentError:
            parsed = None
        except ValueError:
            raise ValueError(
                f"{hide_password(url)!r} was given; expected one port. Name several servers of one database as in "
                "'postgresql://USER:PASSWORD@/DATABASE?host=FIRST:5432&host=SECOND:5432&target_session_attrs=read-write'"
                ": the service writes to the one that can be written"
            ) from None
        kind = parsed.get_backend_name() if parsed is not None else ""
        database = (parsed.database if parsed is not None else "") or ":memory:"
        no_file = kind == "sqlite" and database.startswith((":memory:", "file:"))
        if kind not in ("sqlite", "postgresql") or no_file:
            raise ValueError(
                f"{hide_password(url)!r} was given; expected sqlite:///FILE (three slashes before a relative path, "
                "four before an absolute one) or postgresql://USER:PASSWORD@HOST/DATABASE"
            )
        return url

    @property
    def removes_runs(self) -> bool:
        """Whether anything that is stored ever goes."""
        return any(each is not None for each in (self.retain_days, self.thin_after_days, self.retain_gigabytes))

    @field_validator("standby")
    @classmethod
    def _can_be_waited_for(cls, standby: bool, info: ValidationInfo) -> bool:
        url = info.data.get("store_url", "")
        if standby and url.startswith("sqlite"):
            raise ValueError(
                f"the store {url} is a file, which goes where its machine goes; two services that take over from each "
                "other keep it in PostgreSQL: give --store-url postgresql://USER:PASSWORD@HOST/DATABASE to both"
            )
        return standby


LIMITS = tuple(name for name in ServiceSettings.model_fields if name.startswith("max_") and name != "max_batch_items")
"""Names of the settings that a request or an item can exceed."""
