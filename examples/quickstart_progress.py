"""One line of progress for each training, in place of the Trainer's own."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


def progress_lines(console: Console) -> Progress:
    """Each task needs a field `shown`: what is written after its bar."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[shown]}"),
        console=console,
    )


# Where there is no terminal whose lines could be written again.
_STEPS_PER_LINE = 25


class ProgressLine(TrainerCallback):
    """Shows the steps done, and some of the numbers that the trainer logs."""

    def __init__(self, lines: Progress, description: str, shown: Mapping[str, str]) -> None:
        """`shown` maps the name of a logged number to its format, such as {"loss": "loss {:.3f}"}."""
        self._lines = lines
        self._description = description
        self._shown = shown

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._task = self._lines.add_task(self._description, total=state.max_steps, shown="")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._lines.update(self._task, completed=state.global_step)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        logs = kwargs["logs"]
        # The summary at the end has other numbers.
        if all(name in logs for name in self._shown):
            shown = ", ".join(pattern.format(logs[name]) for name, pattern in self._shown.items())
            self._lines.update(self._task, shown=shown)
            if not self._lines.console.is_terminal and state.global_step % _STEPS_PER_LINE == 0:
                self._lines.console.print(f"{self._description} {state.global_step}/{state.max_steps} {shown}")
