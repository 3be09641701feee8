"""Why a MODEL says so: maps over images with scores that say how far to believe them."""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor

from tessera.data.images import ImageError, as_image, printable, quiet
from tessera.data.inputs import find_images
from tessera.devices import pick_device
from tessera.explain.faithfulness import (
    RANDOM_MAPS,
    Faithfulness,
    faithfulness,
    patch_order,
    random_orders,
    verdict,
)
from tessera.explain.gradients import shortfall
from tessera.explain.methods import METHODS, check_method, check_parts, default_method, passes
from tessera.explain.question import Question, answer, token_grid
from tessera.explain.results import ExplainedImage, ExplainedMap, Explanation
from tessera.explain.sanity import Sanity, cascade, check_weights
from tessera.predict import Predictor, Source, load
from tessera.progress import Counter, counting, say
from tessera.report.environment import environment
from tessera.report.facts import model_facts
from tessera.report.inside import Section, look_inside, write_inside
from tessera.report.maps import save_maps, write_explanation
from tessera.run_folder import refuse_used

INCOMPLETE = 0.1
"""Share that integrated gradients may miss before more steps are advised."""


@dataclass(frozen=True, kw_only=True)
class ExplainSettings:
    """What is made, and how much work goes into saying whether it is to be believed."""

    methods: Sequence[str] = ()
    """Keys of ``tessera.explain.methods.METHODS``; () takes the model's default."""
    target: str | int | None = None
    """Class by name or number; None is what the model says of each image."""
    block: int | None = None
    head: int | None = None
    steps: int = 32
    """Of integrated gradients."""
    curve_steps: int = 10
    """Points of the deletion and insertion curves; 0 leaves these scores out."""
    sanity_images: int = 3
    """Images on which maps of random weights are looked at; 0 leaves the check out."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.curve_steps < 0 or self.sanity_images < 0 or self.seed < 0:
            raise ValueError(
                f"steps={self.steps} must be at least 1; curve_steps={self.curve_steps}, "
                f"sanity_images={self.sanity_images} and seed={self.seed} at least 0"
            )


def explain(
    model: str | Path,
    images: Sequence[Source],
    settings: ExplainSettings | None = None,
    *,
    out: str | Path | None = None,
    device: str = "auto",
    offline: bool = False,
    console: Console | None = None,
) -> Explanation:
    """Show what a MODEL looks at in images, and how far to believe it.

    Args:
        images: Files, folders, ``digits:test``, PIL images or arrays of uint8.
        out: Folder for overlays, raw maps and the page; nothing is written if left out.

    Raises:
        ValueError: No image can be read, no such class, or a method is not defined for the model.
    """
    settings, console = settings or ExplainSettings(), console or Console(quiet=True)
    folder = None if out is None else Path(out)
    if folder is not None:
        refuse_used(folder)
    sources = _named(images)
    picked = pick_device(device)
    predictor = load(model, device=picked, offline=offline)
    names = tuple(dict.fromkeys(settings.methods)) or (default_method(predictor.model),)
    for name in names:
        check_method(name, predictor.model)
    check_parts(predictor.model, names, settings.block, settings.head)
    target = find_target(settings.target, predictor)
    settings = replace(settings, methods=names, target=target)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    work = _Work(predictor, settings, folder, len(sources))
    what = f"{len(sources):,} image{'' if len(sources) == 1 else 's'} with {', '.join(names)}"
    say(console, f"work    {what}: about {work.cost:,} forward passes of one image")
    facts: dict[str, Any] = {
        "model": model_facts(predictor.model, predictor.header),
        "task": predictor.header.task,
        "methods": list(names),
        "settings": settings.__dict__,
        "unreadable": work.unreadable,
        "environment": environment(picked),
    }
    found = Explanation(images=work.images, sanity=work.sanity, facts=facts)
    _run(work, sources, found, f"What {Path(model).name} looks at", console)
    return found


def _run(
    work: "_Work",
    sources: Sequence[tuple[str, Source]],
    found: Explanation,
    title: str,
    console: Console,
) -> None:
    """Do all work; what was made before an interruption stands on the page as well."""
    began = time.perf_counter()

    def write(*, finished: bool) -> None:
        found.facts["finished"] = finished
        found.facts["seconds"] = round(time.perf_counter() - began, 3)
        if work.folder is not None and work.images:
            found.page = write_explanation(work.folder, found, title, work.sheet)

    try:
        with counting(console, "explaining", work.cost) as counter:
            work.run(sources, counter)
    except BaseException:
        with suppress(OSError):  # a full disk, say, which is what is raised then
            write(finished=False)
            if found.page is not None:
                say(console, f"stopped before the end; what was made is in {found.page}")
        raise
    write(finished=True)


def find_target(target: str | int | None, predictor: Predictor) -> int | None:
    """Return the number of a class that is given by name or number; None stays None.

    Raises:
        ValueError: The model knows no such class.
    """
    names = predictor.class_names
    if target is None:
        return None
    if not names:
        raise ValueError("the model has no head, so it knows no classes\nhint: leave --target out")
    text = str(target)
    if text in names:
        return names.index(text)
    if text.isdigit():
        if int(text) < len(names):
            return int(text)
        raise ValueError(f"class {text} is not in a model of {len(names)} classes from 0")
    synonyms = {
        part.strip().casefold(): k
        for k, name in reversed(list(enumerate(names)))
        for part in (name, *name.split(","))
    }
    if text.casefold() in synonyms:
        return synonyms[text.casefold()]
    close = get_close_matches(text.casefold(), synonyms, n=1, cutoff=0.5)
    guess = f"did you mean {names[synonyms[close[0]]]!r}? " if close else ""
    few = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    raise ValueError(
        f"the model knows no class {text!r}\nhint: {guess}it has {len(names)} classes: {few}"
    )


def explain_model(
    model: str | Path,
    images: Sequence[Source] = (),
    *,
    out: str | Path | None = None,
    device: str = "auto",
    offline: bool = False,
    console: Console | None = None,
) -> dict[str, Section]:
    """Show what a MODEL has learnt: the paper's Figure 7, and norms of tokens.

    Args:
        images: On which attention distance and token norms are measured, as for ``explain``.
        out: Folder for pictures, numbers and the page; nothing is written if left out.

    Raises:
        ValueError: An image cannot be read.
    """
    console = console or Console(quiet=True)
    folder = None if out is None else Path(out)
    if folder is not None:
        refuse_used(folder)
    sources = _named(images) if images else []
    picked = pick_device(device)
    predictor = load(model, device=picked, offline=offline)
    prepare, inputs = predictor.header.preprocessing, []
    with counting(console, "reading", len(sources)) as counter, quiet():
        for _, source in sources:
            inputs.append(prepare(as_image(source))[None].to(picked))
            counter.advance(1)
    with console.status("looking inside"):
        sections = look_inside(predictor.model, inputs)
    if folder is None:
        return sections
    facts = {
        "model": model_facts(predictor.model, predictor.header),
        "images": [printable(name) for name, _ in sources],
        "environment": environment(picked),
    }
    write_inside(folder, sections, title=f"What {Path(model).name} has learnt", facts=facts)
    return sections


class _Work:
    """Maps of images, one image after another; maps of random weights at the end."""

    def __init__(
        self, predictor: Predictor, settings: ExplainSettings, folder: Path | None, count: int
    ) -> None:
        self.predictor, self.settings, self.folder = predictor, settings, folder
        self.each, self.cost = _cost(predictor, settings, count)
        self.scored = _scored(predictor, settings)
        self.methods = {name: METHODS[name] for name in settings.methods}
        self.images: list[ExplainedImage] = []
        self.sanity: dict[str, Sanity] = {}
        self.unreadable: list[str] = []
        self.sheet: list[Image.Image] = []
        self._inputs: list[tuple[Tensor, Question]] = []

    def run(self, sources: Sequence[tuple[str, Source]], counter: Counter) -> None:
        for number, (name, source) in enumerate(sources):
            try:
                with quiet():
                    image = as_image(source)
            except ImageError as error:
                self.unreadable.append(str(error))
                counter.advance(self.each)
                continue
            self._explain(number, name, image, counter)
        if not self.images:
            raise ValueError(f"no image could be read\nhint: {self.unreadable[0]}")
        if self.settings.sanity_images:
            for name in self.methods:
                self.sanity[name] = self._check(name, counter)

    def _explain(self, number: int, name: str, image: Image.Image, counter: Counter) -> None:
        model, prepare = self.predictor.model, self.predictor.header.preprocessing
        x = prepare(image)[None].to(self.predictor.device)
        question, predicted = self._question(x, counter)
        question = replace(question, on_batch=counter.advance)
        random = self._random(x, question)
        one = ExplainedImage(
            name=name,
            target=None,
            answer=None,
            predicted=None,
            maps=[self._map(key, x, question, random) for key in self.methods],
            seen=prepare.seen(image.height, image.width),
        )
        if question.target is not None:
            names = self.predictor.class_names
            one.target, one.predicted = names[question.target], names[predicted]
            one.answer = float(answer(model, x, question)[0])
        if self.folder is not None:
            self.sheet.append(save_maps(self.folder, number, image, one, prepare))
        self.images.append(one)
        if len(self._inputs) < self.settings.sanity_images:
            self._inputs.append((x, replace(question, on_batch=lambda images: None)))

    def _question(self, x: Tensor, counter: Counter) -> tuple[Question, int]:
        """What is asked about an image, and the number of the class that the model says."""
        header, s = self.predictor.header, self.settings
        question = Question(
            task=header.task,
            temperature=header.temperature or 1.0,
            block=s.block,
            head=s.head,
            steps=s.steps,
        )
        if not header.config.num_classes:
            return question, 0
        with torch.inference_mode():
            best = int(self.predictor.model(x)[0].argmax())
        counter.advance(1)
        assert s.target is None or isinstance(s.target, int)
        return replace(question, target=best if s.target is None else s.target), best

    def _random(self, x: Tensor, question: Question) -> list[Faithfulness]:
        """Scores of maps drawn at random, which all methods are compared with."""
        if not self.scored:
            return []
        grid = token_grid(self.predictor.model, x)
        return [
            self._score(x, order, question)
            for order in random_orders(grid[0] * grid[1], self.settings.seed)
        ]

    def _score(self, x: Tensor, order: Tensor, question: Question) -> Faithfulness:
        model, steps = self.predictor.model, self.settings.curve_steps
        return faithfulness(model, x, order, question, steps=steps)

    def _map(
        self, name: str, x: Tensor, question: Question, random: list[Faithfulness]
    ) -> ExplainedMap:
        method, model = self.methods[name], self.predictor.model
        values = method.make(model, x, question).detach().float()
        one = ExplainedMap(method=name, values=values.cpu().numpy())
        if bool((values == values.flatten()[0]).all()):
            one.note = "The map is the same everywhere: it points at nothing."
        if name == "integrated-gradients":
            missed = shortfall(model, x, values, question)
            one.note = f"The map misses {missed:.0%} of the logit's change from the mean colour"
            one.note += "; give more --steps." if missed > INCOMPLETE else "."
        if not method.has_places(model, token_grid(model, x), question.block):
            one.note = (
                "The block looks inside of windows, which all have the same sum: values are "
                "compared inside of one window, and there are no scores."
            )
        if name in self.scored:
            order = patch_order(values, token_grid(model, x))
            one.faithfulness, one.random = self._score(x, order, question), random
            one.verdict = verdict(one.faithfulness, random)
        return one

    def _check(self, name: str, counter: Counter) -> Sanity:
        images = [x for x, _ in self._inputs]
        questions = {id(x): question for x, question in self._inputs}
        make = self.methods[name].make
        kept = [image.maps[list(self.methods).index(name)].values for image in self.images]
        own = [torch.from_numpy(values) for values in kept[: len(images)]]
        grid = token_grid(self.predictor.model, images[0])
        cost = passes(name, self.predictor.model, grid, self.settings.steps)
        return check_weights(
            lambda model, x: make(model, x, questions[id(x)]).detach().float().cpu(),
            self.predictor.model,
            images,
            own,
            signed=METHODS[name].signed,
            seed=self.settings.seed,
            on_map=lambda: counter.advance(cost),
        )


def _named(images: Sequence[Source]) -> list[tuple[str, Source]]:
    """Find files in folders, and number what has no name."""
    if isinstance(images, str | Path | Image.Image | np.ndarray) or not len(images):
        raise ValueError("no list of images was given\nhint: give files, folders, or digits:test")
    found: list[tuple[str, Source]] = []
    for source in images:
        if isinstance(source, str | Path):
            found += find_images([str(source)])
        else:
            found.append((f"image {len(found)}", source))
    return found


def _scored(predictor: Predictor, settings: ExplainSettings) -> list[str]:
    """Methods whose maps get scores of deletion and insertion."""
    model, size = predictor.model, predictor.header.preprocessing.size
    grid = size[0] // model.config.patch_size, size[1] // model.config.patch_size
    if not model.config.num_classes or predictor.header.task == "regress":
        return []
    ranked = [
        name
        for name in settings.methods
        if not METHODS[name].is_colour and METHODS[name].has_places(model, grid, settings.block)
    ]
    return ranked if settings.curve_steps else []


def _cost(predictor: Predictor, settings: ExplainSettings, count: int) -> tuple[int, int]:
    """Forward passes of one image that each image takes, and that everything takes."""
    model, size = predictor.model, predictor.header.preprocessing.size
    grid = size[0] // model.config.patch_size, size[1] // model.config.patch_size
    maps = [passes(name, model, grid, settings.steps) for name in settings.methods]
    scored, curve = len(_scored(predictor, settings)), 2 * (settings.curve_steps + 1)
    curves = (scored + RANDOM_MAPS) * curve if scored else 0
    each = (2 if model.config.num_classes else 0) + sum(maps) + curves
    checked = min(count, settings.sanity_images) * len(cascade(model)) * sum(maps)
    return each, count * each + checked
