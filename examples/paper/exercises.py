"""The data sets of the experiments: sums to find, by trial, by example, or by preference."""

import random
from itertools import islice

from toy_addition import LARGEST_NUMBER, UNANSWERED, solved_exercises

from paper.experiments import Data

Row = dict[str, str]


def exercises(data: Data, count: int, seed: int) -> list[Row]:
    """Return solved exercises. Those of `low` and of `high` have no exercise in common: the first number decides.

    `backwards` are those of `low` with the digits of the sum in reverse, which the base model never saw.
    """
    half = (LARGEST_NUMBER + 1) // 2
    # About half of them belong to either.
    drawn = solved_exercises(4 * count + 64, seed)
    rows = list(islice((row for row in drawn if (_first_number(row) >= half) == (data == "high")), count))
    return [{**row, "completion": row["completion"][::-1]} for row in rows] if data == "backwards" else rows


def preferences(data: Data, count: int, seed: int) -> list[Row]:
    """Return prompts with a chosen answer, which is that of `exercises`, and a rejected one.

    The base model gives both kinds of rejected answers: none, and a number that is a little off.
    """
    chance = random.Random(seed)
    return [
        {"prompt": row["prompt"], "chosen": row["completion"], "rejected": _wrong_answer(row, chance)}
        for row in exercises(data, count, seed)
    ]


def judged_answers(data: Data, count: int, seed: int) -> list[dict[str, str | bool]]:
    """Return prompts with an answer and whether it is right; half of them are."""
    rows: list[dict[str, str | bool]] = []
    for row in preferences(data, (count + 1) // 2, seed):
        rows.append({"prompt": row["prompt"], "completion": row["chosen"], "label": True})
        rows.append({"prompt": row["prompt"], "completion": row["rejected"], "label": False})
    return rows[:count]


def _first_number(row: Row) -> int:
    return int(row["prompt"].partition("+")[0])


def _wrong_answer(row: Row, chance: random.Random) -> str:
    first, second = row["prompt"].removesuffix("=").split("+")
    return UNANSWERED if chance.random() < 0.5 else str(int(first) + int(second) + chance.randint(1, 9))
