"""Parameters that do not train, watched for those that start to, and for those that are new."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn

from monitor.errors import name_some
from monitor.observe.user_warning import warn_user
from monitor.observe.weights.names import clean_name


class FrozenParameters:
    """What a model has beside the parameters that are measured.

    Args:
        model: the model as it is when measuring starts.
        frozen: the parameters that do not train now and are to be measured once they do, by clean name.
    """

    def __init__(self, model: nn.Module, frozen: Mapping[str, nn.Parameter]) -> None:
        self._frozen = {name: (parameter, _writes(parameter)) for name, parameter in frozen.items()}
        self._known = {name for name, _ in model.named_parameters()}

    def thawed(self) -> list[str]:
        """Return the names of the parameters that train since the last call and still are what they were while frozen.

        Those that were written to are named in a warning and left out: what they started from is lost.
        """
        trainable = {name: held for name, held in self._frozen.items() if held[0].requires_grad}
        for name in trainable:
            del self._frozen[name]
        moved = [name for name, (parameter, writes) in trainable.items() if _writes(parameter) != writes]
        if moved:
            warn_user(
                f"written to before the monitor saw that they are trainable: {name_some(moved)}. What they started "
                "from is not known, so they count as unchanged. Switch requires_grad between steps, and in a loop of "
                "your own call follow() before the next step."
            )
        return [name for name in trainable if name not in moved]

    def forget(self, names: Iterable[str]) -> None:
        """Watch these no longer: they are measured."""
        for name in names:
            self._frozen.pop(name, None)

    def warn_of_new(self, model: nn.Module) -> None:
        """Name, once, the parameters that were added to the model since measuring started: they are not counted."""
        # By their own names first: this is done at every observation, and cleaning a name takes longer than the rest.
        names = [name for name, _ in model.named_parameters()]
        new = [name for name in names if name not in self._known]
        # What was wrapped since has another name, and has lost the one it had.
        wrapped = {clean_name(name) for name in self._known.difference(names)} if new else set()
        self._known.update(new)
        if added := [name for name in map(clean_name, new) if name not in wrapped]:
            warn_user(
                f"added to the model after monitoring started, so neither measured nor counted: {name_some(added)}. "
                "Add parameters before training starts."
            )


def _writes(parameter: nn.Parameter) -> int:
    """Return how often a parameter was written to; where that is not counted, 0."""
    return 0 if parameter.is_inference() else int(parameter._version)
