"""Whether an engine serves the weights that train: its fingerprints, compared with those of the steps that are kept."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from monitor.errors import ConfigurationError, name_some, shown
from monitor.observe.served.sums import MODULUS
from monitor.observe.weights.groups import GroupKey, group_keys

logger = logging.getLogger(__name__)

# Steps whose fingerprints are kept: as far back as an engine is usually found to be behind. A few kilobytes each.
_KEPT = 64

Fingerprints = Mapping[str, int] | Sequence[Mapping[str, int]]
"""Of an engine's weights: name → number, as `monitor.fingerprint` returns it; of several ranks, one of each."""


@dataclass(frozen=True)
class ServedWeights:
    """What an engine serves, compared with what trains.

    Attributes:
        expected_step: the step whose weights it was to serve.
        step: the latest kept step whose weights it serves, all that were compared; None where there is none.
        differing: the groups that are not those of the expected step, such as "mlp.up_proj of layer 3" → the latest
            kept step whose weights they have; None where there is none.
        groups: number of groups that were compared, at least in part.
        only_trained: names of parameters that the engine did not give.
        only_served: names that the engine gave and the model that trains does not have.
    """

    expected_step: int
    step: int | None
    differing: Mapping[str, int | None]
    groups: int
    only_trained: tuple[str, ...] = ()
    only_served: tuple[str, ...] = ()

    @property
    def is_expected(self) -> bool:
        """Whether all that could be compared is as expected, and something could."""
        return self.groups > 0 and not self.differing


def as_text(found: ServedWeights) -> str:
    """Return it for the other processes."""
    return json.dumps(asdict(found))


def from_text(text: str) -> ServedWeights:
    """Return what `as_text` was given."""
    fields = json.loads(text)
    names = {name: tuple(fields[name]) for name in ("only_trained", "only_served")}
    return ServedWeights(**{**fields, **names})


class ServedCheck:
    """Keeps the fingerprints of the latest steps, and compares with them what is served.

    Args:
        writes_log: whether this process says what is wrong.
    """

    def __init__(self, *, writes_log: bool) -> None:
        self._kept: dict[int, Mapping[str, int]] = {}
        self._tied: Mapping[str, str] = {}
        self._writes_log = writes_log
        self._said: set[str] = set()

    def keep(self, step: int, fingerprints: Mapping[str, int], tied: Mapping[str, str]) -> None:
        """Keep the fingerprints of a step's weights, and forget those of the oldest.

        Args:
            fingerprints: by name, tied parameters once.
            tied: the other names of parameters that have several → the name there.
        """
        self._kept.pop(step, None)
        self._kept[step] = fingerprints
        self._tied = tied
        while len(self._kept) > _KEPT:
            del self._kept[next(iter(self._kept))]

    def compare(self, given: Fingerprints, step: int) -> ServedWeights:
        """Compare what is served with what was to be, and say what is wrong, each kind of fault once.

        Raises:
            ConfigurationError: these are no fingerprints, or those of the step are not kept.
        """
        if step not in self._kept:
            raise ConfigurationError(
                f"what is served cannot be compared with the weights of step {step}, whose fingerprints are not kept. "
                f"Kept are those of steps {', '.join(map(str, self._kept)) or '(none)'}: call fingerprint() when "
                "weights are handed to the engine, or served() before the next optimizer step."
            )
        found = self._compare(_Served.of(given, self._tied, self._kept[step]), step)
        if self._writes_log:
            self._tell(found)
        return found

    def compare_several(self, engines: Sequence[Fingerprints], step: int) -> ServedWeights:
        """Compare several engines as `compare` does, and return what is found of the one that differs most."""
        found = [self._compare(_Served.of(each, self._tied, self._kept[step]), step) for each in engines]
        worst = max(found, key=lambda each: (not each.groups, len(each.differing)))
        if self._writes_log:
            self._tell(worst)
        return worst

    def _compare(self, served: _Served, step: int) -> ServedWeights:
        trained = self._kept[step]
        names = list(served.trained_as)
        groups = _by_group(trained, served.trained_as)
        differing = {
            _called(key): self._step_of(served, members)
            for key, members in groups.items()
            if not served.agrees(trained, members)
        }
        compared = set(served.trained_as.values())
        return ServedWeights(
            expected_step=step,
            step=self._step_of(served, names) if differing else step if names else None,
            differing=differing,
            groups=len(groups),
            only_trained=tuple(name for name in trained if name not in compared),
            only_served=tuple(name for name in served.totals if name not in served.trained_as),
        )

    def _step_of(self, served: _Served, names: Sequence[str]) -> int | None:
        return next((step for step, kept in reversed(self._kept.items()) if served.agrees(kept, names)), None)

    def _tell(self, found: ServedWeights) -> None:
        if not found.groups:
            self._say("names", _without_names(found))
        elif found.differing:
            # Which step it serves may be found out only later.
            self._say("stale" if found.step is None else "of another step", self._differing(found))
        if found.groups and (found.only_trained or found.only_served):
            self._say("uncompared", _uncompared(found))

    def _say(self, kind: str, message: str) -> None:
        if kind not in self._said:
            self._said.add(kind)
            logger.warning("sparsity-monitor: %s", message)

    def _differing(self, found: ServedWeights) -> str:
        if found.step is not None:
            what = f"the engine serves the weights of step {found.step}, not those of step {found.expected_step}"
            why = (
                "Later ones did not reach it: the sync was left out, failed, or went to a copy that is not served"
                if found.step < found.expected_step
                else "It has been handed later ones since; give served() the step that it is to serve"
            )
        elif len(found.differing) == found.groups:
            what = (
                f"the engine serves none of the weights of step {found.expected_step}, nor of any other step whose "
                f"fingerprints are kept ({', '.join(map(str, self._kept))})"
            )
            why = (
                "They are older, as where it never got any; or it serves them in another dtype, quantised, or without "
                "the adapters; or its ranks and the table of slices do not fit"
            )
        else:
            where = [
                name if step is None else f"{name} (those of step {step})" for name, step in found.differing.items()
            ]
            what = (
                f"the engine does not serve the weights of step {found.expected_step} in {len(found.differing)} of "
                f"{found.groups} groups: {name_some(where)}"
            )
            why = "The sync leaves these out, or writes them elsewhere"
        return (
            f"{what}. {why}. What it generates is not of the policy that trains: look at how weights are handed to it, "
            "then hand them over again and call served() again. This is said once; served() returns it each time."
        )


@dataclass(frozen=True)
class _Served:
    """The numbers of an engine: those of its ranks added up.

    Attributes:
        totals: name → number.
        ranks: name → how many ranks gave it.
        trained_as: name → that of the parameter in the model that trains, of those that it has.
    """

    totals: Mapping[str, int]
    ranks: Mapping[str, int]
    trained_as: Mapping[str, str]

    @classmethod
    def of(cls, given: Fingerprints, tied: Mapping[str, str], trained: Mapping[str, int]) -> _Served:
        several = [given] if isinstance(given, Mapping) else given
        if isinstance(several, str) or not isinstance(several, Sequence) or not all(map(_is_fingerprint, several)):
            raise ConfigurationError(
                f"served() was given {shown(given)}; expected what monitor.fingerprint() returns for the engine's "
                "tensors, or a list of these, one for each of its ranks."
            )
        totals: Counter[str] = Counter()
        ranks: Counter[str] = Counter()
        for one in several:
            for name, number in one.items():
                totals[name] += number
                ranks[name] += 1
        # An engine may have the one, the other, or both names of a tied parameter.
        names = {name: name if name in trained else tied.get(name, "") for name in totals}
        return cls(totals, ranks, {name: own for name, own in names.items() if own in trained})

    def agrees(self, trained: Mapping[str, int], names: Sequence[str]) -> bool:
        """Return whether these are served as they are trained, all of them."""
        numbers = ((name, trained.get(self.trained_as[name])) for name in names)
        return all(number is not None and self._is(name, number) for name, number in numbers)

    def _is(self, name: str, number: int) -> bool:
        # What is on several ranks alike, as norms are, comes several times.
        total = self.totals[name] % MODULUS
        return any(total == times * number % MODULUS for times in range(1, self.ranks[name] + 1))


def _is_fingerprint(given: object) -> bool:
    return isinstance(given, Mapping) and all(
        isinstance(name, str) and isinstance(number, int) for name, number in given.items()
    )


def _by_group(trained: Mapping[str, int], trained_as: Mapping[str, str]) -> dict[GroupKey, list[str]]:
    keys = group_keys(trained)
    groups: dict[GroupKey, list[str]] = {}
    for name, own in trained_as.items():
        groups.setdefault(keys[own], []).append(name)
    return groups


def _called(key: GroupKey) -> str:
    return key.module if key.layer is None else f"{key.module} of layer {f'{key.stack} {key.layer}'.lstrip()}"


def _without_names(found: ServedWeights) -> str:
    served = name_some(list(found.only_served), limit=2) or "none"
    return (
        f"nothing that the engine serves can be compared with what trains, because no name is in both: {served} "
        f"there, {name_some(list(found.only_trained), limit=2)} here. On the engine's side, give fingerprint() the "
        "names of the model that trains, by its slices or in what it is given."
    )


def _uncompared(found: ServedWeights) -> str:
    sides = ((found.only_trained, "the engine did not give"), (found.only_served, "what is measured here lacks"))
    parts = [f"{whose} {name_some(list(names), limit=3)}" for names, whose in sides if names]
    return (
        f"not all that the engine serves can be compared with what trains: {', and '.join(parts)}. On the engine's "
        "side, give fingerprint() the same names, by its slices or in what it is given. This is said once."
    )
