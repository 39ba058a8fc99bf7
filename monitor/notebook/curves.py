"""Curves of runs over the step, with the bands of published runs named."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from monitor.errors import ConfigurationError, MissingLibraryError
from monitor.notebook.run import LoadedRun
from monitor.published import RL_CUMULATIVE, RL_STEP, SFT_CUMULATIVE, SFT_STEP, Band
from monitor.terminal import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Told apart by the colour-blind, too (Okabe and Ito); the bands have the greens and oranges of the dashboards.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_LINES = ("-", "--", ":", "-.")
_GREEN, _ORANGE = "#56a64b", "#e06e28"


class DrawnSparsity(NamedTuple):
    """A sparsity that is drawn.

    Attributes:
        column: of the observations.
        against: what it is measured against, in words.
        rl, sft: what is published of it.
        comparable: what has to be known to compare with that.
    """

    column: str
    title: str
    against: str
    rl: Band
    sft: Band
    comparable: str

    @property
    def bands(self) -> Sequence[tuple[str, Band, str]]:
        """Name what is published, each with its colour."""
        return (("published RL", self.rl, _GREEN), ("published SFT", self.sft, _ORANGE))

    @property
    def published(self) -> str:
        """Say what the bands are, where they were published, and what compares with them."""
        named = [f"Band “{name} {band}”: {band.source}." for name, band, _ in self.bands]
        return " ".join([*named, self.comparable])


CUMULATIVE = DrawnSparsity(
    "cumulative_sparsity",
    "Cumulative sparsity",
    "equal to the base",
    RL_CUMULATIVE,
    SFT_CUMULATIVE,
    "All of these train every weight.",
)
STEP = DrawnSparsity(
    "step_sparsity",
    "Step sparsity",
    "equal to the previous observation",
    RL_STEP,
    SFT_STEP,
    "Both are one step apart; with float32 master weights, and over more steps, step sparsity is lower.",
)


def figure_of(runs: Sequence[LoadedRun]) -> tuple[Axes, Axes]:
    """Draw both sparsities of the runs into a new figure of pyplot, and return its two axes.

    Raises:
        MissingLibraryError: there is no matplotlib.
        ConfigurationError: no run has an observation.
    """
    try:
        from matplotlib import pyplot
    except ModuleNotFoundError as error:
        raise MissingLibraryError(
            f'drawing needs {error.name}, which is not installed: pip install "sparsity-monitor[analysis]"',
            name=error.name,
        ) from None
    if not any(len(run.observations) for run in runs):
        raise ConfigurationError(
            " ".join([f"run {runs[0].run_id} has no observation here.", *runs[0].described.remarks])
        )
    figure, axes = pyplot.subplots(2, sharex=True, figsize=(8, 6), layout="constrained")
    figure.suptitle(", ".join(_named(run) for run in runs))
    for axis, drawn in zip(axes, (CUMULATIVE, STEP), strict=True):
        draw(axis, drawn, runs)
    axes[0].set_xlabel("")
    return axes[0], axes[1]


def draw(axes: Axes, drawn: DrawnSparsity, runs: Sequence[LoadedRun]) -> None:
    """Draw one sparsity of each run over its steps, in percent of the trained weights."""
    from matplotlib.ticker import MaxNLocator

    for index, run in enumerate(runs):
        color, line = _COLORS[index % len(_COLORS)], _LINES[index // len(_COLORS) % len(_LINES)]
        shown = run.observations
        percents = 100 * shown[drawn.column]
        axes.plot(shown["step"].astype("int64"), percents, line, color=color, label=label(run), **_marked(len(shown)))
    for name, band, color in drawn.bands:
        axes.axhspan(100 * band.low, 100 * band.high, color=color, alpha=0.15, lw=0, label=f"{name} {band}")
    axes.set_title(drawn.title, loc="left", fontsize="medium")
    axes.set_ylabel(f"% of trained weights\n{drawn.against}", fontsize="small")
    axes.set_xlabel("optimizer step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize="small")


def label(run: LoadedRun) -> str:
    """Name a run with what its sparsity is measured as."""
    return f"{_named(run)}\n({run.described.measured_as})"


def _named(run: LoadedRun) -> str:
    # matplotlib takes what stands between dollar signs for a formula, and hides what begins with an underscore.
    return printable(run.name or run.run_id).replace("$", r"\$").lstrip("_")


def _marked(points: int) -> dict[str, Any]:
    return {"marker": "."} if points < 50 else {}
