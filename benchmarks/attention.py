"""What an attention pattern costs against the number of tokens: time and memory, as curves.

    python benchmarks/attention.py [--sides 8 16 32 64] [--patterns ...] [--json FILE] [--plot FILE]

One layer's attention without its projections: queries, keys and values of one image, with heads of
width 64, on square grids of patches with one class token. Each pattern runs dense (a mask for
torch's fused kernel, which computes every pair) and in blocks (flex_attention, which skips blocks
of pairs); "global" is the fused kernel without any mask. Both ways must agree within 1e-5 (0.05 in
bfloat16), and are compiled before anything is timed. Within a round the cases come in random order;
printed are medians over rounds. Memory is that of queries, keys, values and mask, and by how much a
process of its own grows during a call.
"""

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator
from torch import Tensor
from torch.nn import functional as F

from tessera.benchmarking.memory import ask_child, measure
from tessera.benchmarking.timing import interleave
from tessera.nn.attention_masks import PATTERNS, TokenGrid, dense_mask
from tessera.nn.block_sparse import block_mask, block_sparse_attention
from tessera.report.environment import device_name

HEAD_DIM = 64
TOLERANCE = 1e-5
WAYS = ("dense", "blocks")


class Case(NamedTuple):
    """One curve's point: a pattern, how it runs, and the side of the grid."""

    pattern: str
    way: str
    side: int


class Work(NamedTuple):
    """What is timed."""

    run: Callable[[], list[Tensor]]
    turns: int
    """Layers in a run: masks that take turns from block to block have one each."""
    held: int
    """Bytes of queries, keys, values and masks, of one layer."""


def work(case: Case, args: argparse.Namespace) -> Work:
    """Prepare the attention of one image."""
    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    tokens = TokenGrid((case.side, case.side), 1, args.heads, args.window)
    generator = torch.Generator().manual_seed(0)
    shape = 1, args.heads, 1 + case.side**2, HEAD_DIM
    q, k, v = (torch.randn(shape, generator=generator).to(device, dtype) for _ in range(3))
    layers: list[Callable[[], Tensor]] = []
    sizes: list[int] = []
    for number in turns_of(case.pattern):
        if case.way == "blocks":
            blocks = block_mask(case.pattern, number, tokens, device)
            assert blocks is not None
            layers.append(partial(block_sparse_attention, q, k, v, blocks, None))
            kept = [x for x in blocks.mask.as_tuple() if isinstance(x, Tensor)]
            sizes.append(sum(x.nbytes for x in [*kept, blocks.order] if x is not None))
        else:
            mask = dense_mask(case.pattern, number, tokens, device)
            mask = None if mask is None else mask[None]
            layers.append(partial(F.scaled_dot_product_attention, q, k, v, mask))
            sizes.append(0 if mask is None else mask.nbytes)

    @torch.inference_mode()
    def run() -> list[Tensor]:
        return [attend() for attend in layers]

    return Work(run, len(layers), 3 * q.nbytes + max(sizes))


def turns_of(pattern: str) -> range:
    """Number the masks that take turns from block to block."""
    masks, by = PATTERNS[pattern]
    return range(max(1, len(masks)) if by == "blocks" else 1)


def cases_of(args: argparse.Namespace) -> list[Case]:
    """Every pattern, both ways, at every side; the global one has no blocks to skip."""
    return [
        Case(pattern, way, side)
        for side in args.sides
        for pattern in args.patterns
        for way in WAYS
        if (pattern, way) != ("global", "blocks")
    ]


def shares(case: Case, args: argparse.Namespace) -> dict[str, float]:
    """Return which share of the pairs may look, and which share of the blocks is computed."""
    tokens, device = TokenGrid((case.side,) * 2, 1, args.heads, args.window), torch.device("cpu")
    pairs, kept = [], []
    for turn in turns_of(case.pattern):
        mask = dense_mask(case.pattern, turn, tokens, device)
        blocks = block_mask(case.pattern, turn, tokens, device)
        pairs.append(1.0 if mask is None else mask.float().mean().item())
        kept.append(1.0 if blocks is None else blocks.mask.to_dense().float().mean().item())
    return {"pairs": statistics.fmean(pairs), "blocks": statistics.fmean(kept)}


def measure_all(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Compare, time and weigh every case."""
    rows: list[dict[str, Any]] = []
    for side in args.sides:
        cases = {case: work(case, args) for case in cases_of(args) if case.side == side}
        for case, prepared in cases.items():
            if case.way == "blocks":
                dense = cases[case._replace(way="dense")].run()
                both = zip(prepared.run(), dense, strict=True)
                apart = max((x - y).abs().max().item() for x, y in both)
                if apart > args.tolerance:
                    raise SystemExit(f"{case} differs from the dense one by {apart:.1g}")
        runs = {case: prepared.run for case, prepared in cases.items()}
        found = interleave(
            runs, rounds=args.rounds, seconds=args.seconds, device=torch.device(args.device)
        )
        for case, rounds in found.items():
            by_round = [statistics.median(calls) / cases[case].turns for calls in rounds]
            rows.append(
                {
                    **case._asdict(),
                    "tokens": 1 + side**2,
                    "ms": 1000 * statistics.median(by_round),
                    "quarters": [1000 * q for q in statistics.quantiles(by_round, n=4)[::2]],
                    "bytes": weigh(case, args),
                    **shares(case, args),
                }
            )
            say(f"{side}x{side} {case.pattern} {case.way}: {rows[-1]['ms']:.2f} ms")
    return rows


def weigh(case: Case, args: argparse.Namespace) -> int | None:
    """Return the peak memory of a case, in a process of its own."""
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"  # so that what is freed is given back
    told = [*map(str, case), args.device, args.dtype, str(args.heads), str(args.window)]
    return ask_child([__file__, "--weigh", *told])


def weigh_here(told: list[str]) -> None:
    """Print the peak memory of one case, in the process that is only for it."""
    pattern, way, side, device, dtype, heads, window = told
    args = argparse.Namespace(device=device, dtype=dtype, heads=int(heads), window=int(window))
    prepared = work(Case(pattern, way, int(side)), args)
    prepared.run()  # loads and compiles what it needs, which is no part of what is measured
    grown = measure(lambda: prepared.run, torch.device(device))
    held = 0 if device.startswith("cuda") else prepared.held  # CUDA's meter counts that itself
    print(f"\n{None if grown is None else grown + held}")


def as_markdown(found: dict[str, Any]) -> str:
    """Write one table for time and one for memory, a column for each number of tokens."""
    rows, sides = found["rows"], found["sides"]
    titles = [f"{1 + side**2:,} tokens" for side in sides]
    head = (
        f"{found['date']}, {found['machine']}, {found['threads']} threads, {found['device']}, "
        f"{found['dtype']}, torch {found['torch']}: one image, {found['heads']} heads "
        f"of {HEAD_DIM}, window {found['window']}; medians of {found['rounds']} rounds."
    )
    lines = [head]
    for unit, key, scale in (("ms a layer", "ms", 1.0), ("peak memory, MB", "bytes", 1e-6)):
        lines += ["", f"| {unit} | | {' | '.join(titles)} |", f"|---|---|{'--:|' * len(sides)}"]
        for pattern in dict.fromkeys(row["pattern"] for row in rows):
            for way in WAYS:
                chosen = [r for r in rows if (r["pattern"], r["way"]) == (pattern, way)]
                if chosen:
                    cells = ["" if r[key] is None else f"{r[key] * scale:,.2f}" for r in chosen]
                    lines.append(f"| `{pattern}` | {way} | {' | '.join(cells)} |")
    lines += ["", f"| of all, % | | {' | '.join(titles)} |", f"|---|---|{'--:|' * len(sides)}"]
    for pattern in dict.fromkeys(row["pattern"] for row in rows if row["way"] == "blocks"):
        chosen = [r for r in rows if (r["pattern"], r["way"]) == (pattern, "blocks")]
        for what in ("pairs", "blocks"):
            cells = [f"{100 * r[what]:.1f}" for r in chosen]
            lines.append(f"| `{pattern}` | {what} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def plot(found: dict[str, Any], path: Path) -> None:
    """Draw time and memory against tokens, both axes in powers."""
    colours = mpl.colormaps["tab10"].colors  # type: ignore[attr-defined]
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(10, 4.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        panels = ((left, "ms", "ms a layer", 1.0), (right, "bytes", "peak memory, MB", 1e-6))
        names = list(dict.fromkeys(row["pattern"] for row in found["rows"]))
        for axes, key, title, scale in panels:
            for number, name in enumerate(names):
                for way, style in (("dense", ":"), ("blocks", "-")):
                    style = "--" if name == "global" else style
                    chosen = [r for r in found["rows"] if (r["pattern"], r["way"]) == (name, way)]
                    points = [(r["tokens"], r[key] * scale) for r in chosen if r[key]]
                    if points:
                        label = f"{name}, {way}" if name != "global" else "global"
                        colour = "black" if name == "global" else colours[number % 10]
                        axes.plot(*zip(*points, strict=True), style, color=colour, label=label)
            axes.set_xscale("log")
            axes.set_yscale("log")
            counts = [1 + side**2 for side in found["sides"]]
            axes.xaxis.set_major_locator(FixedLocator(counts))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_xticklabels([f"{count:,}" for count in counts])
            axes.set_xlabel("tokens")
            axes.set_title(title, loc="left")
            axes.grid(color="#d9dee4", lw=0.6)
        figure.legend(*left.get_legend_handles_labels(), loc="outside right center", frameon=False)
        figure.savefig(path, dpi=110)


def machine(device: torch.device) -> str:
    """Name the device, and how many cores there are."""
    return f"{device_name(device)}, {os.cpu_count()} cores"


def say(line: str) -> None:
    """Tell of the progress."""
    print(line, file=sys.stderr, flush=True)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line; ``--quick`` fills in what makes a smoke test."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--sides", type=int, nargs="+", default=[8, 16, 24, 32, 48, 64])
    parser.add_argument("--patterns", nargs="+", default=list(PATTERNS), choices=list(PATTERNS))
    parser.add_argument("--heads", type=int, default=3)
    parser.add_argument("--window", type=int, default=7, help="of the patterns that have one")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.1, help="of a case in a round, at least")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, help="PNG or SVG")
    parser.add_argument("--quick", action="store_true", help="two grids, to see that it works")
    parser.add_argument("--weigh", nargs=7, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.quick:
        args.sides, args.rounds, args.seconds = [4, 8], 2, 0.001
    if args.rounds < 2:
        parser.error("--rounds must be at least 2")
    args.tolerance = TOLERANCE if args.dtype == "float32" else 0.05
    return args


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    args = parse(argv)
    if args.weigh:
        weigh_here(args.weigh)
        return
    found: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(torch.device(args.device)),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        **{name: getattr(args, name) for name in ("device", "dtype", "heads", "window", "rounds")},
        "sides": args.sides,
        "rows": measure_all(args),
    }
    print(as_markdown(found))
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if args.plot:
        plot(found, args.plot)


if __name__ == "__main__":
    main()
