"""A run that was loaded: what it is, its numbers as frames, its curves."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from monitor.notebook.described import Described, Source
from monitor.notebook.frames import frame
from monitor.terminal import printable

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from monitor.observe.masks.file import MaskFile


class LoadedRun:
    """One run as it stood when it was loaded; `monitor.load_run` makes it.

    Each frame is made when it is first asked for. Counts are whole numbers of weights; sparsities are shares of the
    trained weights from 0 to 1: cumulative against the base, step against the previous observation. What was not
    measured is missing (NA, NaN). Columns are called as the curves of /api/v1.
    """

    def __init__(self, source: Source) -> None:
        self._source = source

    def __repr__(self) -> str:
        about = self.described
        lines = [
            printable(f"run {about.run_id} ({about.name}): {len(self.observations):,} observations, {about.state}"),
            f"{about.weights:,} weights; {about.measured_as}",
            *about.remarks,
        ]
        return "\n".join(lines)

    @property
    def described(self) -> Described:
        """What the run is and how it stands; what is missing from its numbers is in `remarks`."""
        return self._source.described

    @property
    def run_id(self) -> str:
        """The run's id, the same through its resumes."""
        return self.described.run_id

    @property
    def name(self) -> str:
        """The run's name, for people."""
        return self.described.name

    @cached_property
    def observations(self) -> pd.DataFrame:
        """One row for each observed step: step, time, attempt, both sparsities, every count over all groups, and cost.

        Steps that a later attempt superseded are left out.
        """
        return frame(self._source.observations())

    @cached_property
    def groups(self) -> pd.DataFrame:
        """One row for each observation and group: step, layer, module, weights, both sparsities, and every count.

        A long run of a large model has millions: from a service they come in pages, which takes its time.
        """
        return frame(self._source.groups())

    @cached_property
    def last_groups(self) -> pd.DataFrame:
        """The rows of `groups` of the last observation, without reading the others."""
        return frame(self._source.last_groups())

    @cached_property
    def logs(self) -> pd.DataFrame:
        """What the trainer logged: step, time, name, value."""
        return frame(self._source.logs())

    @cached_property
    def references(self) -> pd.DataFrame:
        """Overlap with each reference mask R, a row for each step and mask.

        weights |R|, intersection |M∩R|, overlap_o1 |M∩R| ÷ |M|, overlap_o2 |M∩R| ÷ |R|, and lift: |M∩R| ÷ what chance
        would give, stratified by matrix.
        """
        return frame(self._source.references())

    @property
    def mask(self) -> MaskFile | None:
        """The update mask with which the run ended; None where its directory has none, and from a service."""
        from monitor.observe.masks.file import MaskFile

        path = self.described.mask_file
        found = None if path is None else MaskFile(path)
        # A directory may have seen several runs.
        return found if found is not None and found.metadata.run_id == self.run_id else None

    def plot(self) -> tuple[Axes, Axes]:
        """Draw cumulative and step sparsity over the steps, with the bands of published runs.

        Returns:
            the two axes of matplotlib, cumulative first; `axes[0].figure.savefig("run.png")` writes them.

        Raises:
            MissingLibraryError: there is no matplotlib.
            ConfigurationError: there is no observation to draw.
        """
        from monitor.notebook.curves import figure_of

        return figure_of([self])
