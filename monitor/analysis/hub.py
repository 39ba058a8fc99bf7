"""Checkpoints on the Hugging Face Hub, through its local cache."""

from __future__ import annotations

import re
from pathlib import Path

from monitor.errors import CheckpointError

# One of these is in every repository of weights, and in the cache as soon as anything of it was loaded.
_CONFIGURATIONS = ("config.json", "adapter_config.json")
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?(@[\w./-]+)?")


def is_hub_id(text: str) -> bool:
    """Return whether this can be the name of a repository, with `@revision` or without.

    >>> is_hub_id("Qwen/Qwen2.5-0.5B@main"), is_hub_id("runs/7/checkpoint-100")
    (True, False)
    """
    return _HUB_ID.fullmatch(text) is not None


class HubRepository:
    """A repository of the hub.

    Args:
        name: such as "Qwen/Qwen2.5-0.5B".
        revision: branch, tag or commit; None for the default branch.
    """

    def __init__(self, name: str, revision: str | None) -> None:
        self._name, self._revision = name, revision

    @classmethod
    def named(cls, text: str) -> HubRepository:
        """Return the repository of a hub id, with `@revision` or without."""
        name, _, revision = text.partition("@")
        return cls(name, revision or None)

    def file(self, name: str) -> Path | None:
        """Return a file of this name, downloaded where it is not in the cache; None if the repository has none.

        Raises:
            CheckpointError: the hub cannot be reached, or has no such repository.
        """
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        try:
            return Path(hf_hub_download(self._name, name, revision=self._revision))
        except LocalEntryNotFoundError as error:
            if self._is_in_cache():
                return None
            raise self._cannot_be_had(f"it is not in the local cache, and the hub {_not_reached()}") from error
        except EntryNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise self._cannot_be_had(f"the hub says {type(error).__name__}, {_first_line(error)}") from error

    def why_nothing(self) -> str:
        """Return why there may be no weights, as sentences; "" if that is not known."""
        return " They may be in the repository and not in the local cache: run `hf download` where there is a network."

    def _is_in_cache(self) -> bool:
        from huggingface_hub import try_to_load_from_cache

        known = (try_to_load_from_cache(self._name, name, revision=self._revision) for name in _CONFIGURATIONS)
        return any(isinstance(path, str) for path in known)

    def _cannot_be_had(self, why: str) -> CheckpointError:
        return CheckpointError(
            f"{self._name!r} is no directory here, and as a hub id it cannot be had: {why}. Check the name, log in "
            "with `hf auth login` where it is private, or run `hf download` where there is a network."
        )


def _not_reached() -> str:
    from huggingface_hub import constants

    return "is not asked (HF_HUB_OFFLINE is set)" if constants.HF_HUB_OFFLINE else "cannot be reached"


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].strip().rstrip(".")
