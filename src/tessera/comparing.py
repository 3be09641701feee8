"""Comparison of measured models on the same images, from the answers that they left in folders."""

import json
from collections import Counter
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from tessera.evaluation.paired import SIGNIFICANT, Paired, holm, paired
from tessera.report.predictions import predictions_name
from tessera.report.tables import find_table, read_table, write_table
from tessera.run_folder import refuse_used

NAMED = 3
"""Images that a message names."""


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What a model answered for every image of a split."""

    run: str
    images: tuple[str, ...]
    labels: tuple[str, ...]
    predicted: tuple[str, ...]
    correct: Bool[np.ndarray, " n"]
    fingerprint: str | None
    """Of the images of the split, if it is written down."""

    def sorted(self) -> "Answers":
        """Return the same answers in the order of the images' names."""
        order = sorted(range(len(self.images)), key=self.images.__getitem__)
        return Answers(
            run=self.run,
            images=tuple(self.images[i] for i in order),
            labels=tuple(self.labels[i] for i in order),
            predicted=tuple(self.predicted[i] for i in order),
            correct=self.correct[order],
            fingerprint=self.fingerprint,
        )


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two of the runs, by their places in the list."""

    first: int
    second: int
    paired: Paired
    p_adjusted: float
    """The p-value, made larger for the number of pairs (Holm, 1979)."""

    @property
    def conclusion(self) -> str:
        """What the numbers say, in a sentence."""
        p = self.paired
        if not p.only_first + p.only_second:
            return "both are right on the same images, so nothing here tells them apart"
        points = f"{100 * abs(p.difference.value):.2f} points"
        better, worse = (
            (self.second + 1, self.first + 1)
            if p.difference.value > 0
            else (self.first + 1, self.second + 1)
        )
        chance = f"{100 * self.p_adjusted:.2g} % of the time"
        if not p.difference.value:
            return "both are right equally often, though not on the same images"
        if self.p_adjusted < SIGNIFICANT:
            return (
                f"{better} is better than {worse} by {points}; "
                f"chance alone would give so much {chance}"
            )
        return (
            f"the difference is within chance: {better} is ahead of {worse} by {points}, "
            f"and of equally good models one would be so {chance}"
        )


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Runs on the same images, and what tells each two of them apart."""

    split: str
    answers: tuple[Answers, ...]
    pairs: tuple[Pair, ...]

    def only(self, right: int, wrong: int) -> list[dict[str, str]]:
        """Return the images that one run gets right and another wrong."""
        one, other = self.answers[right], self.answers[wrong]
        return [
            {"image": one.images[i], "label": one.labels[i], "predicted": other.predicted[i]}
            for i in np.flatnonzero(one.correct & ~other.correct)
        ]

    def as_dict(self, limit: int | None = None) -> dict[str, Any]:
        """Return everything as JSON knows it; runs are numbered from 1.

        Args:
            limit: Images to list of each kind; all by default.
        """
        return {
            "split": self.split,
            "images": len(self.answers[0].images),
            "runs": [
                {"run": a.run, "correct": int(a.correct.sum()), "accuracy": float(a.correct.mean())}
                for a in self.answers
            ],
            "pairs": [
                {
                    "first": pair.first + 1,
                    "second": pair.second + 1,
                    **pair.paired.as_dict(),
                    "p_value_holm": pair.p_adjusted,
                    "conclusion": pair.conclusion,
                    "only_first": self.only(pair.first, pair.second)[:limit],
                    "only_second": self.only(pair.second, pair.first)[:limit],
                }
                for pair in self.pairs
            ],
        }

    def differences(self) -> dict[str, list[Any]]:
        """Return as columns every image that some run gets right and some run wrong."""
        hits = np.stack([answers.correct for answers in self.answers])
        rows = np.flatnonzero(hits.any(axis=0) & ~hits.all(axis=0))
        columns: dict[str, list[Any]] = {
            "image": [self.answers[0].images[i] for i in rows],
            "label": [self.answers[0].labels[i] for i in rows],
        }
        for number, answers in enumerate(self.answers, 1):
            columns[f"predicted_{number}"] = [answers.predicted[i] for i in rows]
            columns[f"correct_{number}"] = answers.correct[rows].tolist()
        return columns


def compare(*runs: str | Path, split: str = "test", out: str | Path | None = None) -> Comparison:
    """Compare what models answered for the same images, each two of them.

    Args:
        runs: Folders of ``tessera train`` or of ``tessera evaluate --out``, at least two.
        split: Whose answers to compare.
        out: Folder to write ``comparison.json`` and ``differences.csv`` to; new or empty.

    Raises:
        ValueError: A folder has no answers for the split, or the images or labels are not the same.
    """
    if len(runs) < 2:
        raise ValueError(
            f"{len(runs)} run given, and a comparison takes two or more\n"
            "hint: tessera compare runs/a runs/b"
        )
    if out is not None:
        refuse_used(Path(out))
    places = [Path(run).expanduser().resolve() for run in runs]
    for run, place in zip(runs, places, strict=True):
        if places.count(place) > 1:
            raise ValueError(f"{run} is given twice\nhint: name different runs")
    answers = _aligned([read_answers(run, split) for run in runs])
    numbers = list(combinations(range(len(answers)), 2))
    found = [paired(answers[i].correct, answers[j].correct) for i, j in numbers]
    adjusted = holm([each.p_value for each in found])
    pairs = tuple(
        Pair(first=i, second=j, paired=each, p_adjusted=p)
        for (i, j), each, p in zip(numbers, found, adjusted, strict=True)
    )
    comparison = Comparison(split=split, answers=tuple(answers), pairs=pairs)
    if out is not None:
        folder = Path(out)
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(comparison.as_dict(), indent=2) + "\n"
        (folder / "comparison.json").write_text(text, encoding="utf-8")
        write_table(folder / "differences.csv", comparison.differences())
    return comparison


def read_answers(run: str | Path, split: str) -> Answers:
    """Read what a model answered for every image of a split.

    Raises:
        ValueError: The folder is not there, has no such table, or one that is not whole.
    """
    folder = Path(run).expanduser()
    if not folder.is_dir():
        raise ValueError(
            f"no folder at {folder}\nhint: give folders of `tessera train`, "
            "or of `tessera evaluate --out`"
        )
    path = find_table(folder, predictions_name(split))
    if path is None:
        raise ValueError(_missing(folder, split))
    table = read_table(path)
    if "correct" not in table and "error" in table:
        raise ValueError(
            f"{path} holds numbers, which are not right or wrong\n"
            "hint: compare the intervals of the reports"
        )
    lacking = [name for name in ("image", "label", "predicted", "correct") if name not in table]
    if lacking or not set(table["correct"]) <= {"true", "false"}:
        what = f"lacks the column {lacking[0]}" if lacking else "says neither true nor false"
        raise ValueError(
            f"{path} is no table of answers: it {what}\nhint: evaluate the model again, with --out"
        )
    return Answers(
        run=str(run),
        images=tuple(table["image"]),
        labels=tuple(table["label"]),
        predicted=tuple(table["predicted"]),
        correct=np.array(table["correct"]) == "true",
        fingerprint=_fingerprint(folder, split),
    )


def _missing(folder: Path, split: str) -> str:
    """Say that a folder has no answers for a split, and what it has."""
    start = predictions_name("")
    splits = sorted(p.stem.removeprefix(start) for p in folder.glob(f"{start}*"))
    text = f"{folder} has no answers for the {split} split"
    if splits:
        return f"{text}\nhint: it has {', '.join(splits)}; choose with --split"
    return f"{text}\nhint: make them with `tessera evaluate {folder} DATA --out DIR`"


def _fingerprint(folder: Path, split: str) -> str | None:
    """Return the fingerprint of a split that the report beside the table wrote down."""
    try:
        text = (folder / "report.json").read_text(encoding="utf-8")
        return str(json.loads(text)["data"]["fingerprint"][split])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _aligned(answers: list[Answers]) -> list[Answers]:
    """Bring all answers into one order.

    Images whose fingerprints agree are the same in the same order, whatever their folder is
    called; all others are matched by name.

    Raises:
        ValueError: The images or their labels are not the same.
    """
    first, others = answers[0], answers[1:]
    by_print = first.fingerprint is not None and all(
        each.fingerprint == first.fingerprint and len(each.images) == len(first.images)
        for each in others
    )
    if by_print:
        for each in others:
            _require_same_labels(first, each)
        return answers
    ordered = [each.sorted() for each in answers]
    for each, raw in zip(ordered[1:], others, strict=True):
        _require_same_images(ordered[0], each)
        _require_same_labels(ordered[0], each)
        prints = {first.fingerprint, raw.fingerprint}
        if None not in prints and len(prints) > 1 and raw.images == first.images:
            raise ValueError(
                f"{first.run} and {raw.run} answered images of the same names, but of other "
                f"contents: fingerprint {first.fingerprint} and {raw.fingerprint}\n"
                "hint: measure both on the same data with `tessera evaluate RUN DATA --out DIR`"
            )
    return ordered


def _require_same_images(one: Answers, other: Answers) -> None:
    left, right = Counter(one.images), Counter(other.images)
    if left == right:
        return
    parts = []
    for answers, extra in ((one, left - right), (other, right - left)):
        if extra:
            names = sorted(extra)
            more = ", ..." if len(names) > NAMED else ""
            parts.append(
                f"{extra.total()} only in {answers.run} ({', '.join(names[:NAMED])}{more})"
            )
    raise ValueError(
        f"{one.run} and {other.run} answered different images: {'; '.join(parts)}\n"
        "hint: measure both on the same data with `tessera evaluate RUN DATA --out DIR`"
    )


def _require_same_labels(one: Answers, other: Answers) -> None:
    triples = zip(one.images, one.labels, other.labels, strict=True)
    apart = [f"{image} is {a} and {b}" for image, a, b in triples if a != b]
    if apart:
        more = ", ..." if len(apart) > NAMED else ""
        count = f"{len(apart)} of {len(one.images)} images"
        raise ValueError(
            f"{one.run} and {other.run} have other labels for {count}: "
            f"{', '.join(apart[:NAMED])}{more}\n"
            "hint: measure both on the same data with `tessera evaluate RUN DATA --out DIR`"
        )
