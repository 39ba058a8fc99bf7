"""Pictures of the pages in both themes and on a phone, to be looked at: of made-up runs, in a real service.

python -m tests.service.web.pages.screenshots DIRECTORY
python -m tests.service.web.pages.screenshots --for-readme   those of the README: what a window shows
"""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from playwright.sync_api import Browser

from monitor.wire import monitor_pb2 as pb
from tests.service.messages import finished, logged, observed, registration
from tests.service.running import Client, service_in_thread
from tests.service.web.pages.browsing import chromium, opened

LAYERS, MODULES, WEIGHTS = 12, ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "gate_proj", "down_proj"), 100_000
GROUPS = [pb.Group(layer=layer, module=module, weights=WEIGHTS) for layer in range(LAYERS) for module in MODULES]
PAGES = {
    "overview": "/#sort=-step&ticked=grpo-1%2Fdpo",
    "run": "/runs/grpo-1#group=03%2Fv_proj",
    "compare": "/compare?run=grpo-0&run=grpo-1&run=dpo&run=sft",
}
SIGHTS: dict[str, dict[str, Any]] = {
    "light": {"viewport": {"width": 1280, "height": 900}},
    "dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 800}},
}
# Small enough for a README, and as large as the text in it needs.
WINDOW = {"viewport": {"width": 1000, "height": 640}}
OF_README = Path(__file__).parents[4] / "examples" / "screenshots"


class Shot(NamedTuple):
    page: str
    window: dict[str, Any]
    path: Path
    whole: bool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("directory", type=Path, nargs="?", help="where the pictures go, as PAGE-SIGHT.png")
    where.add_argument("--for-readme", action="store_true", help="write those of the README, as PAGE.png")
    given = parser.parse_args()
    directory = OF_README if given.for_readme else given.directory
    directory.mkdir(parents=True, exist_ok=True)
    if given.for_readme:
        shots = [Shot(page, WINDOW, directory / f"{page}.png", whole=False) for page in PAGES]
    else:
        every = ((page, sight) for page in PAGES for sight in SIGHTS)
        shots = [Shot(page, SIGHTS[sight], directory / f"{page}-{sight}.png", whole=True) for page, sight in every]
    with tempfile.TemporaryDirectory() as scratch, service_in_thread(Path(scratch) / "store.db") as client:
        _fill(client)
        with chromium() as browser:
            for shot in shots:
                _shoot(browser, client, shot)


def _shoot(browser: Browser, client: Client, shot: Shot) -> None:
    page = browser.new_page(**shot.window)
    opened(page, client, PAGES[shot.page])
    if not shot.whole and shot.page == "run":
        page.evaluate("document.getElementById('curves').scrollIntoView()")
    page.screenshot(path=shot.path, full_page=shot.whole)
    page.close()


def _fill(client: Client) -> None:
    _run(client, "grpo-0", "GRPO on GSM8K, seed 0", changed=0.2, steps=180)
    _end(client, "grpo-0", 180)
    mask = _counts(180, 0.2)
    _run(client, "grpo-1", "GRPO on GSM8K, seed 1", changed=0.22, steps=120, reference=("grpo-0", mask))
    client.register(
        _registration("grpo-1", "GRPO on GSM8K, seed 1", ("grpo-0", mask), attempt=2, resumed_from_step=100)
    )
    client.send("grpo-1", _items(101, 200, 0.22, ("grpo-0", mask)), attempt=2)
    _run(client, "dpo", "DPO on UltraFeedback, with a rather long name", changed=0.1, steps=220)
    _run(client, "sft", "SFT on GSM8K", changed=0.9, steps=150)
    _end(client, "sft", 150, "CUDA out of memory")


Mask = tuple[str, list[int]]


def _registration(run_id: str, name: str, reference: Mask | None, **more: Any) -> pb.Registration:
    references = [pb.Reference(name=reference[0], weights=reference[1])] if reference else []
    algorithm, _, data, *_ = name.replace(",", "").split()
    labels = {"algorithm": algorithm, "dataset": data}
    shape = {"groups": GROUPS, "references": references, "tolerances": [], "planned_steps": 300}
    return registration(run_id, name=name, labels=labels, **shape, **more)


def _run(client: Client, run_id: str, name: str, changed: float, steps: int, reference: Mask | None = None) -> None:
    client.register(_registration(run_id, name, reference))
    client.send(run_id, _items(1, steps, changed, reference))


def _end(client: Client, run_id: str, steps: int, reason: str = "") -> None:
    client.send(run_id, [finished(2 * steps + 1, step=steps, reason=reason)])


def _counts(step: int, share: float) -> list[int]:
    """Changed weights of each group: more with the steps, and not in all groups alike."""
    grown = WEIGHTS * share * (1 - math.exp(-step / 60))
    return [min(WEIGHTS * 9 // 10, int(grown * (0.8 + 0.4 * (7 * at % 13) / 12))) for at in range(len(GROUPS))]


def _items(first: int, last: int, share: float, reference: Mask | None) -> list[pb.Item]:
    items = []
    for number, step in enumerate(range(first, last + 1)):
        items.append(_observed(2 * number + 1, step, share, reference))
        reward = 1 - math.exp(-step / 90)
        items.append(logged(2 * number + 2, step=step, loss=0.4 * (1 - reward), reward=reward, kl=0.0004 * step))
    return items


def _observed(sequence: int, step: int, share: float, reference: Mask | None) -> pb.Item:
    changed = _counts(step, share)
    # One step that moves far more than the others.
    moved = [count // (4 if step == 70 else 60 + (step * (at + 3)) % 7) for at, count in enumerate(changed)]
    overlap = [pb.ReferenceCounts(intersection=_part(changed, 2), expected_intersection=_part(changed, 5))]
    density = sum(changed) / WEIGHTS / len(GROUPS)
    reason = f"{1 - density:.1%} of the trained weights equal the base (cumulative sparsity, bits in bfloat16)"
    return observed(
        sequence,
        step=step,
        observed_at=1.7e9 + 45 * step,
        changed=changed,
        newly_changed=_part(moved, 2),
        reverted=_part(moved, 3),
        step_changed=moved,
        touched=[min(WEIGHTS, count * 6 // 5) for count in changed],
        hidden=_part(changed, 10),
        non_finite=[0] * len(GROUPS),
        references=overlap if reference else [],
        changed_at=[],
        squared_norm=[1e-4 * count for count in changed],
        max_abs=[1e-3] * len(GROUPS),
        base_squared_norm=[1e4] * len(GROUPS),
        synchronisation=None,
        host_seconds=0.004 + 0.001 * (step % 3),
        device_seconds=0.02 + 0.001 * (step % 2),
        monitor_bytes=4_200_000,
        verdict=pb.Verdict(kind="sparse" if density < 0.5 else "dense (looks like SFT)", reason=reason),
    )


def _part(counts: list[int], of: int) -> list[int]:
    return [count // of for count in counts]


if __name__ == "__main__":
    main()
