"""The pages: what runs there are, one run with its layers, the runbook. Nothing comes from elsewhere.

Where a browser runs scripts, pages draw, sort and go on with the runs; without them they have the same in tables.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from monitor.percent import percent
from monitor.published import RL_CUMULATIVE, SFT_CUMULATIVE
from monitor.service.live.runs import LiveRun
from monitor.service.quantities.fields import LOGGED
from monitor.service.quantities.labels import measured_as
from monitor.service.recording.recorder import Recorder
from monitor.service.settings import ServiceSettings
from monitor.service.times import when
from monitor.service.web.api import RunJson
from monitor.service.web.interface.describe import attempts_of, fields_of, incomparable
from monitor.service.web.page.assets import Assets
from monitor.service.web.page.overlaps import matrix, reasons
from monitor.service.web.page.runbook import packaged_runbook
from monitor.service.web.page.sparklines import HEIGHT, WIDTH, Sparkline, Sparklines
from monitor.service.web.views import run_detail_json, run_json
from monitor.thresholds import CUMULATIVE_CRITICAL, CUMULATIVE_LOW, STEP_COLLAPSED

# What the published figures were measured by.
_PUBLISHED = ("bits", "bfloat16")
_THRESHOLDS = (
    ("cumulative_sparsity", CUMULATIVE_LOW),
    ("cumulative_sparsity", CUMULATIVE_CRITICAL),
    ("step_sparsity", STEP_COLLAPSED),
)
_BANDS = (("published RL", RL_CUMULATIVE), ("published SFT", SFT_CUMULATIVE))


class Pages:
    """Renders pages from the live state. Everything that a run sent is escaped.

    Each may be told that the browser has logged in (`is_in`): it has a button to log out then.

    Attributes:
        style: their style sheet.
        icon, favicon: the picture of the service, as SVG and for what knows only the older format.
        assets: the scripts of the pages.
    """

    def __init__(self, settings: ServiceSettings, recorder: Recorder) -> None:
        self._settings = settings
        self._live = recorder.live
        self._sparklines = Sparklines(recorder)
        here = Path(__file__).parent
        self.style = (here / "style.css").read_text(encoding="utf-8")
        self.icon = (here / "icon.svg").read_bytes()
        self.favicon = (here / "favicon.ico").read_bytes()
        self.assets = Assets()
        self._templates = Environment(
            loader=PackageLoader(__name__, ""),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
        )
        self._templates.filters |= {
            "percent": percent,
            "of_trained": of_trained,
            "count": count,
            "small": small,
            "when": when,
            "field": field_name,
            "path": lambda text: quote(text, ""),
        }
        self._runbook = packaged_runbook()

    def runbook(self, *, is_in: bool) -> str:
        """Return the page with the runbook."""
        return self._templates.get_template("runbook.html").render(runbook=self._runbook, is_in=is_in)

    async def overview(self, now: float, *, is_in: bool) -> str:
        """Return the page with all runs at `now`."""
        runs = self._live.all()
        sparklines, left = await self._sparklines.of(runs)
        # In a thread: a page with many runs takes a while, and acknowledgements must not wait for it.
        return await asyncio.to_thread(self._overview, runs, sparklines, left, now, is_in=is_in)

    def _overview(
        self,
        runs: Sequence[LiveRun],
        sparklines: Mapping[str, Mapping[str, Sparkline]],
        left: int,
        now: float,
        *,
        is_in: bool,
    ) -> str:
        described = [run_json(run, now, self._settings) for run in runs]
        states = sorted({run.state for run in described})
        labels = sorted({f"{name}={value}" for run in described for name, value in run.labels.items()})
        return self._templates.get_template("overview.html").render(
            runs=described,
            sparklines=sparklines,
            left=left,
            box=(WIDTH, HEIGHT),
            states=states,
            labels=labels,
            is_in=is_in,
            assets=f"/assets/{self.assets.version}",
        )

    def run(self, run_id: str, now: float, *, is_in: bool) -> str | None:
        """Return the page of one run at `now`, None if there is no such run."""
        run = self._live.get(run_id)
        if run is None:
            return None
        detail = run_detail_json(run, now, self._settings)
        template = self._templates.get_template("run.html")
        bands = _BANDS if (detail.criterion, detail.visible_dtype) == _PUBLISHED else ()
        return template.render(
            run=detail,
            now=now,
            is_in=is_in,
            service_url=self._settings.service_url,
            assets=f"/assets/{self.assets.version}",
            bands=json.dumps([{"name": name, **band._asdict()} for name, band in bands]),
            thresholds=[threshold for _, threshold in _THRESHOLDS],
            drawn_thresholds=json.dumps([{"field": field, **each._asdict()} for field, each in _THRESHOLDS]),
            attempts=attempts_of(run),
            sources=[f"{name}: {band}, {band.source}" for name, band in bands],
        )

    def login(self, to: str, wrong: str, *, is_in: bool, closed: bool) -> str:
        """Return the page to log in, or out.

        Args:
            to: the address to go on to.
            wrong: why the token that was given did not do; "" before one was.
            closed: whether the service asks for a token.
        """
        return self._templates.get_template("login.html").render(to=to, wrong=wrong, is_in=is_in, closed=closed)

    def compare(self, runs: Sequence[LiveRun], now: float, *, is_in: bool) -> str:
        """Return the page with several runs beside each other at `now`."""
        described = [run_json(run, now, self._settings) for run in runs]
        names = _names(described)
        compared = [
            {
                "run_id": run.run_id,
                "name": names[run.run_id],
                "started_at": min(each.started_at for each in run.registrations.values()),
            }
            for run in runs
        ]
        overlaps = matrix(runs)
        fields = {field.name: field for run in runs for field in fields_of(run)}
        return self._templates.get_template("compare.html").render(
            runs=described,
            names=names,
            compared=json.dumps(compared),
            fields=list(fields.values()),
            warning=incomparable(runs),
            measured=dict.fromkeys(measured_as(run.registration) for run in runs),
            overlaps=overlaps,
            reasons=reasons(overlaps),
            is_in=is_in,
            assets=f"/assets/{self.assets.version}",
        )

    def problem(self, title: str, detail: str, *, is_in: bool) -> str:
        """Return the page for what cannot be answered."""
        return self._templates.get_template("problem.html").render(title=title, detail=detail, is_in=is_in)


def of_trained(share: float | None, trained_weights: int) -> str:
    """Return a share of the trained weights for people.

    >>> of_trained(None, 0)
    'not trained'
    """
    return percent(share) if trained_weights else "not trained"


def field_name(name: str) -> str:
    """Return the name of a curve for people.

    >>> field_name("step_sparsity"), field_name("metric:loss"), field_name("overlap_o1:other seed")
    ('step sparsity', 'logged: loss', 'overlap o1: other seed')
    """
    kind, separator, own = name.partition(":")
    return f"{'logged' if name.startswith(LOGGED) else kind.replace('_', ' ')}{separator and ': '}{own}"


def _names(runs: Sequence[RunJson]) -> dict[str, str]:
    """Return what to call each run, so that no two are called alike."""
    called = Counter(run.name for run in runs)
    return {
        run.run_id: run.run_id if not run.name else run.name if called[run.name] == 1 else f"{run.name} ({run.run_id})"
        for run in runs
    }


def small(share: float | None) -> str:
    """Return a share that may be small for people, to three digits.

    >>> small(0.00000123), small(0.5)
    ('0.000123 %', '50 %')
    """
    return "not measured" if share is None else f"{100 * share:.3g} %"


def count(weights: float | None) -> str:
    """Return a number of weights for people.

    >>> count(1234567)
    '1 234 567'
    """
    return "not measured" if weights is None else f"{weights:,.0f}".replace(",", " ")
