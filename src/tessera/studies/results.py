"""What a study found: numbers with intervals beside the claims, as JSON, Markdown and a page."""

import json
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from tessera.checkpoint.artifact import write_atomically
from tessera.evaluation.means import over_seeds
from tessera.recipe import dumps
from tessera.studies.design import Claim
from tessera.studies.figures import draw
from tessera.studies.plan import Plan, Subject
from tessera.studies.rules import Outcome, Outcomes, Verdict

Found = Mapping[str, Mapping[str, Any]]
"""Results of trainings, by their keys."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a variant came to."""

    subject: Subject
    seeds: dict[int, dict[str, Any]]
    """Results by seed; those that diverged say so."""

    @property
    def name(self) -> str:
        """Of the variant."""
        return self.subject.variant.name

    @property
    def sound(self) -> dict[int, dict[str, Any]]:
        """Results that did not diverge."""
        return {seed: one for seed, one in self.seeds.items() if "diverged" not in one}

    @property
    def diverged(self) -> int:
        """Seeds whose loss did."""
        return len(self.seeds) - len(self.sound)

    @property
    def accuracy(self) -> tuple[float, float | None, float | None] | None:
        """Mean over the seeds with its interval, which of a single seed is unknown."""
        if not self.sound:
            return None
        hits = [one["hits"] for one in self.sound.values()]
        images = next(iter(self.sound.values()))["images"]
        found = over_seeds(hits, images)
        return (found.value, None, None) if len(hits) < 2 else (found.value, found.low, found.high)

    def mean(self, of: Callable[[dict[str, Any]], float | None]) -> float | None:
        """Return the mean of a number over the seeds; None where nobody measured it."""
        values = [value for one in self.sound.values() if (value := of(one)) is not None]
        return statistics.fmean(values) if values else None

    @property
    def numbers(self) -> dict[str, float | None]:
        """Means of what was measured beside the accuracy."""
        return {
            "val_accuracy": self.mean(lambda one: one["val_accuracy"]),
            "seconds": self.mean(lambda one: one["seconds"]),
            "step_seconds": self.mean(lambda one: one["seconds"] / one["steps"]),
            "images_per_second": self.mean(lambda one: one["trained_images"] / one["seconds"]),
            "memory": self.mean(lambda one: one["memory"]),
        }

    def outcome(self) -> Outcome:
        """Return what rules decide by."""
        return Outcome(
            name=self.name,
            accuracy={seed: one["hits"] / one["images"] for seed, one in self.sound.items()},
            val_accuracy={seed: one["val_accuracy"] for seed, one in self.sound.items()},
            image_seconds={
                seed: one["seconds"] / one["trained_images"] for seed, one in self.sound.items()
            },
            tokens=self.subject.tokens,
            diverged=self.diverged,
            curve=self.subject.variant.curve,
            x=self.subject.variant.x,
        )

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON knows it; shares are in [0, 1], memory in bytes."""
        subject, accuracy = self.subject, self.accuracy
        return {
            "name": self.name,
            "changes": dict(subject.variant.changes),
            "curve": subject.variant.curve,
            "x": subject.variant.x,
            "accuracy": dict(zip(("value", "low", "high"), accuracy)) if accuracy else None,
            **self.numbers,
            "training_images": subject.images,
            "parameters": subject.parameters,
            "tokens": subject.tokens,
            "macs": subject.macs,
            "attention_share": subject.attention_share,
            "seeds": [{"seed": seed, **one} for seed, one in self.seeds.items()],
        }


@dataclass(frozen=True, kw_only=True)
class StudyResult:
    """What a study found, as far as it has come."""

    plan: Plan
    data: dict[str, Any]
    environment: dict[str, Any]
    rows: list[Row]
    folder: Path
    jobs: int

    @property
    def missing(self) -> list[str]:
        """Trainings that are not done."""
        return [
            f"{row.name}, seed {seed}"
            for seed in self.plan.seeds
            for row in self.rows
            if seed not in row.seeds
        ]

    @property
    def verdicts(self) -> list[Verdict]:
        """What becomes of every claim."""
        outcomes = {row.name: row.outcome() for row in self.rows}
        return [self._verdict(claim, outcomes) for claim in self.plan.study.claims]

    def _verdict(self, claim: Claim, outcomes: Outcomes) -> Verdict:
        """Decide; what is said of all variants does not hold because it does for some."""
        found = claim.decide(outcomes)
        if not (claim.is_about_all and self.plan.left_out and found.word == "holds"):
            return found
        total = len(self.rows) + self.plan.left_out
        finding = f"{found.finding}; only {len(self.rows)} of {total} variants were trained"
        return replace(found, word="cannot be told", finding=finding)

    @property
    def is_unsure(self) -> bool:
        """Whether a single seed leaves all intervals unknown."""
        return len(self.plan.seeds) < 2

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON knows it."""
        study = self.plan.study
        claims = [
            {"claim": claim.text, "source": claim.source, "rule": claim.rule, **verdict.as_dict()}
            for claim, verdict in zip(study.claims, self.verdicts, strict=True)
        ]
        return {
            "study": self.plan.name,
            "title": study.title,
            "question": study.question,
            "varies": study.varies,
            "data": self.data,
            "seeds": list(self.plan.seeds),
            "claims": claims,
            "variants": [row.as_dict() for row in self.rows],
            "missing": self.missing,
            "protocol": protocol(self),
            "recipe": dumps(self.plan.recipe),
            "environment": self.environment,
        }


def make_rows(plan: Plan, found: Found) -> list[Row]:
    """Sort results by variant and seed."""
    rows = []
    for subject in plan.subjects:
        keys = {seed: f"{subject.variant.name}/seed {seed}" for seed in plan.seeds}
        results = {seed: dict(found[key]) for seed, key in keys.items() if key in found}
        rows.append(Row(subject=subject, seeds=results))
    return rows


def protocol(result: StudyResult) -> list[str]:
    """Say in sentences how the numbers came to be."""
    plan, data = result.plan, result.data
    recipe = plan.recipe
    steps = recipe.schedule.total_steps
    long = f"{steps:,} steps" if steps else f"{recipe.schedule.epochs:g} epochs"
    several = len(plan.seeds) > 1
    names = ", ".join(map(str, plan.seeds))
    counts = data["images"]
    lines = [
        f"{data['spec']}: {plan.train_images:,} training images, {counts['val']:,} for "
        f"validation, {counts.get('test', counts['val']):,} to measure on.",
        f"Every variant: {long} of {recipe.data.images_per_step} images, "
        f"{'seeds' if several else 'seed'} {names}. The same seed gives the same order of images, "
        "and the same first weights where nothing that is drawn before them differs.",
        "Accuracy is that of the model at the end of training.",
    ]
    if "test" not in counts:
        lines.append("There is no test split: accuracy is of the validation images.")
    if several:
        lines.append(
            "Intervals are 95 %. That of a mean answers for the seeds (Student's t) and for the "
            "test images (Wilson); that of a paired difference for the seeds."
        )
    else:
        lines.append("One seed tells nothing about others: its intervals are unknown.")
    shared = ", which share the machine with each other" if result.jobs > 1 else ""
    lines.append(f"Trainings at once: {result.jobs}{shared}.")
    return lines


def table(result: StudyResult) -> list[tuple[str, ...]]:
    """Return the cells of the table, headings first."""
    heads = ("variant", "accuracy", "95 % interval", "validation", "ms/step", "images/s")
    rows: list[tuple[str, ...]] = [
        (*heads, "memory, MB", "parameters", "tokens", "MMACs", "N² part")
    ]
    for row in result.rows:
        subject, numbers = row.subject, row.numbers
        step, memory, rate = (
            numbers[name] for name in ("step_seconds", "memory", "images_per_second")
        )
        rows.append(
            (
                row.name,
                *_accuracy(row),
                _share(numbers["val_accuracy"]),
                "" if step is None else f"{1000 * step:.1f}",
                "" if rate is None else f"{rate:,.0f}",
                "" if memory is None else f"{memory / 1e6:,.0f}",
                f"{subject.parameters:,}",
                f"{subject.tokens}",
                f"{subject.macs / 1e6:,.2f}",
                f"{subject.attention_share:.1%}",
            )
        )
    return rows


def _accuracy(row: Row) -> tuple[str, str]:
    if row.accuracy is None:
        return ("diverged" if row.seeds else "not measured"), ""
    value, low, high = row.accuracy
    between = "unknown" if low is None or high is None else f"{low:.2%} to {high:.2%}"
    note = f" ({row.diverged} diverged)" if row.diverged else ""
    return f"{value:.2%}{note}", between


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"


def markdown(result: StudyResult) -> str:
    """Write claims and table for a document."""
    study = result.plan.study
    lines = [f"# {study.title}", "", study.question, ""]
    lines += [f"- {line}" for line in (study.varies, *protocol(result))]
    if result.missing:
        lines.append(f"- Not measured: {', '.join(result.missing)}.")
    for claim, verdict in zip(study.claims, result.verdicts, strict=True):
        lines += ["", f"**Claim.** {claim.text} ({claim.source})", ""]
        lines += [f"**Here: {verdict.word}.** {verdict.finding}.", "", f"Rule: {claim.rule}"]
    head, *rows = table(result)
    lines += ["", f"| {' | '.join(head)} |", "|---|" + "--:|" * (len(head) - 1)]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def write_results(result: StudyResult) -> None:
    """Write ``results.json``, ``.md``, ``.html`` and ``plot.svg``, each whole or not at all."""
    engine = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = (files("tessera.studies") / "page.html.j2").read_text(encoding="utf-8")
    plot = draw(result.plan.study, [row.as_dict() for row in result.rows])
    head, *rows = table(result)
    page = engine.from_string(template).render(
        result=result,
        study=result.plan.study,
        claims=list(zip(result.plan.study.claims, result.verdicts, strict=True)),
        protocol=protocol(result),
        head=head,
        rows=rows,
        plot=plot,
        recipe=dumps(result.plan.recipe),
    )
    texts = {
        "results.json": json.dumps(result.as_dict(), indent=2) + "\n",
        "results.md": markdown(result),
        "results.html": page,
        "plot.svg": plot + "\n",
    }
    for name, text in texts.items():
        data = text.encode("utf-8", errors="backslashreplace")
        write_atomically(result.folder / name, partial(_write, data))


def _write(data: bytes, path: Path) -> None:
    path.write_bytes(data)
