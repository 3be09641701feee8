"""How many images a step may have: what fits into the memory, where the recipe leaves it open."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

import torch

from tessera.data.splits import DataSplits
from tessera.devices import gather_from_all, pick_device, world_size
from tessera.errors import RunError
from tessera.models.vit import ViT
from tessera.optim.optimizers import make_optimizer
from tessera.recipe import Recipe

MOST = 1024
"""No larger batch is chosen: published recipes for data sets of modest size have none."""

STEPS_PER_EPOCH = 8
"""Nor one so large that an epoch has fewer steps."""


def with_batch_that_fits(
    recipe: Recipe, model: ViT, splits: DataSplits, say: Callable[[str], None]
) -> Recipe:
    """Replace ``data.batch_size=auto`` by the largest power of two that fits, over all processes.

    Args:
        model: As it will be trained; its weights stay what they are.
        say: Shows a line to the user.

    Raises:
        RunError: Not even two images fit.
    """
    device = pick_device(recipe.device)
    kept = {name: t.clone() for name, t in model.state_dict().items()}
    model.to(device).train()
    model.grad_checkpointing = recipe.grad_checkpointing
    optimizer = make_optimizer(
        model, replace(recipe.optim, lr=1e-12), depth=model.config.num_layers
    )

    def attempt(count: int) -> None:
        shape = count, model.config.in_chans, *model.config.image_shape
        model(torch.zeros(shape, device=device)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    most = min(MOST, max(2, len(splits["train"]) // STEPS_PER_EPOCH // world_size()))
    here = largest_power_of_two(attempt, most, room=cpu_room if device.type == "cpu" else None)
    model.load_state_dict(kept)
    size = min(gather_from_all(here)) * world_size()
    if not size:
        raise RunError(
            "two images at a time do not fit into the memory\n"
            "hint: take a smaller model, or --grad-checkpointing"
        )
    say(f"batch   {size} images: the largest power of two that fits, up to {MOST} and an eighth of")
    say("        the training images; --optim.lr stays as it is, so give the one that suits it")
    return replace(recipe, data=replace(recipe.data, batch_size=size))


def largest_power_of_two(
    attempt: Callable[[int], None], most: int, room: Callable[[], int] | None = None
) -> int:
    """Return the largest power of two, from 2 to ``most``, that runs; 0 where none does.

    Args:
        attempt: Runs a batch; raises OutOfMemoryError where the memory is too small.
        room: Returns how many bytes are free, where a batch that is too large would not raise but
            end the process: then no batch is tried that would take more than half of it.
    """
    found, size = 0, 2
    while size <= most:
        with peak_growth() as grown:
            try:
                attempt(size)
            except torch.OutOfMemoryError:
                break
        found = size
        size *= 2
        if room is not None and 2 * grown() > room() // 2:
            break
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return found


def cpu_room() -> int:
    """Return the bytes of memory that are free."""
    if "SC_AVPHYS_PAGES" not in os.sysconf_names:  # macOS, where we guess
        return 4 << 30
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def peak_growth() -> Iterator[Callable[[], int]]:
    """Watch by how many bytes the process grows at most; the function given says so at any time.

    What the process once needed and gave back does not count: the system's own record of the peak
    would hide a growth that stays below it.
    """
    before = most = _resident()
    done = Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.005):
            most = max(most, _resident())

    watcher = Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield lambda: max(most, _resident()) - before
    finally:
        most = max(most, _resident())
        done.set()
        watcher.join()


def _resident() -> int:
    """Return the bytes that the process holds; where no system says so, the most it ever held."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        pass
    if resource is None:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
