"""How fast Tessera is beside other Vision Transformers: ratios from one interleaved run.

    python benchmarks/throughput.py [models] [memory] [command] [--quick] [--json FILE] ...

- models: forward pass (eval, inference mode) and training step (forward, cross-entropy, backward,
  fused AdamW; the same for all) of ViT-Ti/16, S/16 and B/16 at 224 pixels, at batch 1, 8 and 32.
- memory: the peak of the same at one batch size, each in a process of its own, weights included.
- command: `tessera predict` of a folder of JPEGs against plain_predict.py, start included.

Each library that can be imported takes part, in its default attention; before timing, its weights
are put into our model and the logits compared. Within a round the libraries come in random order.
A ratio is our speed over theirs in the same round: above 1, ours is faster. Printed are medians
over rounds, and the quarter and three-quarter points of the ratios. The tables are Markdown.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from peers import SIDE, TOLERANCE, build, distance, find_peers, load_library
from torch import Tensor, nn
from torch.nn import functional as F

import tessera
from tessera.benchmarking.bench import percentile
from tessera.benchmarking.memory import ask_child, measure
from tessera.benchmarking.timing import interleave
from tessera.checkpoint.artifact import Header, LoadedModel, save_artifact
from tessera.checkpoint.load import load_model
from tessera.checkpoint.write import write_hf
from tessera.data.preprocessing import Preprocessing
from tessera.models.variants import SIZES
from tessera.report.environment import device_name

SIZE_WORDS = {size.letter: word for word, size in SIZES.items()}
TASKS = ("forward", "train")


def work(
    model: nn.Module, task: str, batch: int, device: torch.device, dtype: torch.dtype
) -> Callable[[], object]:
    """Return what is timed: a forward pass, or a training step."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, 3, SIDE, SIDE, generator=generator).to(device)
    labels = torch.arange(batch, device=device)
    half = dtype != torch.float32

    def forward() -> Tensor:
        model.eval()
        with torch.inference_mode(), torch.autocast(device.type, dtype, enabled=half):
            return model(images)

    if task == "forward":
        return forward
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def train() -> None:
        model.train()
        with torch.autocast(device.type, dtype, enabled=half):
            loss = F.cross_entropy(model(images).float(), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return train


def time_models(args: argparse.Namespace, peers: list[str]) -> list[dict[str, Any]]:
    """Time every library at every size, task and batch size."""
    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    rows: list[dict[str, Any]] = []
    for letter in args.sizes:
        models = {peer: build(peer, SIZE_WORDS[letter]).to(device) for peer in peers}
        for peer in peers[1:]:
            apart = distance(peer, models[peer])
            say(f"ViT-{letter}/16: logits of {peer} and ours, same weights, differ by {apart:.1g}")
            if apart > TOLERANCE:
                raise SystemExit(f"{peer} is not the same model: {apart} > {TOLERANCE}")
        for task in args.tasks:
            for batch in args.batch_size:
                cases = {p: work(m, task, batch, device, dtype) for p, m in models.items()}
                start = time.perf_counter()
                times = interleave(
                    cases,
                    rounds=args.rounds,
                    seconds=args.seconds,
                    limit=args.limit,
                    device=device,
                    seed=len(rows),
                )
                del cases
                row = {"model": f"ViT-{letter}/16", "task": task, "batch": batch}
                rows.append({**row, **ratios(times, batch)})
                took = time.perf_counter() - start
                say(f"ViT-{letter}/16 {task} batch {batch}: {took:.0f} s, " + brief(rows[-1]))
    return rows


def ratios(times: Mapping[str, list[list[float]]], images: int) -> dict[str, Any]:
    """Turn seconds of calls by round into speeds, and ratios of ours to theirs by round."""
    by_round = {
        name: [statistics.median(calls) for calls in found] for name, found in times.items()
    }
    ours = by_round["tessera"]
    found: dict[str, Any] = {"rounds": len(ours), "images_per_second": {}, "ratio": {}}
    for name, seconds in by_round.items():
        found["images_per_second"][name] = images / statistics.median(seconds)
        if name != "tessera":
            each = [theirs / own for theirs, own in zip(seconds, ours, strict=True)]
            found["ratio"][name] = [percentile(each, share) for share in (0.5, 0.25, 0.75)]
    return found


def brief(row: dict[str, Any]) -> str:
    """Say the ratios in a line."""
    return ", ".join(f"{peer} {ratio[0]:.2f}" for peer, ratio in row["ratio"].items())


def weigh(args: argparse.Namespace, peers: list[str]) -> list[dict[str, Any]]:
    """Measure peak memory of every library, each case in a process of its own."""
    rows = []
    for letter in args.sizes:
        for task in args.tasks:
            row = {"model": f"ViT-{letter}/16", "task": task, "batch": args.memory_batch}
            peaks: dict[str, int | None] = {}
            for peer in peers:
                told = [peer, letter, task, str(args.memory_batch), args.device, args.dtype]
                threads = str(torch.get_num_threads())
                peaks[peer] = ask_child([__file__, "--weigh", *told, threads])
            rows.append({**row, "bytes": peaks})
            say(f"ViT-{letter}/16 {task}: {peaks}")
    return rows


def weigh_here(told: list[str]) -> None:
    """Print the peak memory of one case, in the process that is only for it."""
    peer, letter, task, batch, name, dtype, threads = told
    torch.set_num_threads(int(threads))
    load_library(peer)  # which is no part of what is measured
    device = torch.device(name)

    def prepare() -> Callable[[], object]:
        model = build(peer, SIZE_WORDS[letter]).to(device)
        return work(model, task, int(batch), device, getattr(torch, dtype))

    print(f"\n{measure(prepare, device)}")


def time_commands(args: argparse.Namespace, peers: list[str]) -> dict[str, Any] | None:
    """Time the whole commands, in processes of their own."""
    if "transformers" not in peers:
        return None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.weights:
            loaded = load_model(args.weights)
        else:
            model = tessera.create_model(f"vit_tiny_patch16_{SIDE}")
            prepare = Preprocessing(size=(SIDE, SIDE), crop_pct=0.9)
            names = tuple(f"class {k}" for k in range(1000))
            header = Header(config=model.config, preprocessing=prepare, class_names=names)
            loaded = LoadedModel(model=model, header=header, path=folder)
        save_artifact(folder / "ours.safetensors", loaded.model, loaded.header)
        write_hf(loaded, folder / "theirs")
        files = [p for p in sorted(args.images.rglob("*")) if p.suffix.lower() in (".jpg", ".jpeg")]
        if not files:
            raise SystemExit(f"{args.images} has no JPEGs")
        photos = folder / "photos"
        photos.mkdir()
        for k in range(args.repeat):
            for path in files:
                (photos / f"{k}_{path.stem}.jpg").symlink_to(path.resolve())
        out = folder / "out.csv"
        ours = ["-m", "tessera", "predict", folder / "ours.safetensors", photos]
        commands = {
            "tessera": [*ours, "--format", "csv", "--out", out, "--device", args.device],
            "plain": [Path(__file__).with_name("plain_predict.py"), photos, folder / "theirs", out],
        }
        environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}

        def run(command: list[Any]) -> None:
            out.unlink(missing_ok=True)
            done = [sys.executable, *map(str, command)]
            found = subprocess.run(done, capture_output=True, text=True, env=environment)
            if found.returncode:
                raise SystemExit(f"{' '.join(done)} failed:\n{found.stderr}")

        cases = {name: lambda c=command: run(c) for name, command in commands.items()}
        times = interleave(cases, rounds=args.rounds, seconds=0.001, device=torch.device("cpu"))
    count = len(files) * args.repeat
    say(f"commands on {count} photographs done")
    return {"photographs": count, **ratios(times, count)}


def as_markdown(found: dict[str, Any], peers: list[str]) -> str:
    """Write the tables."""
    others = [peer for peer in peers if peer != "tessera"]
    lines = [describe(found), ""]
    if found.get("models"):
        titles = ["model", "task", "batch", "Tessera images/s", *(f"/ {peer}" for peer in others)]
        lines += [f"| {' | '.join(titles)} |", f"|---|---|{'--:|' * (len(titles) - 2)}"]
        for row in found["models"]:
            cells = [row["model"], row["task"], str(row["batch"])]
            cells.append(f"{row['images_per_second']['tessera']:,.1f}")
            for peer in others:
                middle, low, high = row["ratio"][peer]
                cells.append(f"**{middle:.2f}** ({low:.2f} to {high:.2f})")
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    if found.get("memory"):
        titles = ["peak memory, MB", "task", "batch", *peers]
        lines += [f"| {' | '.join(titles)} |", f"|---|---|{'--:|' * (len(titles) - 2)}"]
        for row in found["memory"]:
            cells = [row["model"], row["task"], str(row["batch"])]
            cells += ["" if (n := row["bytes"][p]) is None else f"{n / 1e6:,.0f}" for p in peers]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    if found.get("command"):
        row = found["command"]
        speeds = row["images_per_second"]
        middle, low, high = row["ratio"]["plain"]
        lines.append(
            f"`tessera predict` of {row['photographs']} photographs, start included: "
            f"{speeds['tessera']:.1f} images/s; a plain transformers loop {speeds['plain']:.1f}; "
            f"ratio **{middle:.2f}** ({low:.2f} to {high:.2f})."
        )
    return "\n".join(lines) + "\n"


def describe(found: dict[str, Any]) -> str:
    """Say when, where and with what."""
    names = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    missing = f"; not here: {', '.join(found['missing'])}" if found["missing"] else ""
    return (
        f"{found['date']}, {found['machine']}, {found['threads']} threads, {found['device']}, "
        f"{found['dtype']}; {names}{missing}. Ratios: our speed over theirs."
    )


def machine(device: torch.device) -> str:
    """Name the device, and how many cores there are."""
    return f"{device_name(device)}, {os.cpu_count()} cores"


def say(line: str) -> None:
    """Tell of the progress."""
    print(line, file=sys.stderr, flush=True)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line; ``--quick`` fills in what makes a smoke test."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("parts", nargs="*", help="models, memory, command; all by default")
    parser.add_argument("--sizes", nargs="+", default=["Ti", "S", "B"], choices=list(SIZE_WORDS))
    parser.add_argument("--batch-size", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.2, help="of a case in a round, at least")
    parser.add_argument("--limit", type=float, default=15, help="seconds, then only round 2")
    parser.add_argument("--memory-batch", type=int, default=8)
    parser.add_argument("--images", type=Path, help="folder of JPEGs, for the part command")
    parser.add_argument("--weights", help="MODEL for the part command; random Ti/16 by default")
    parser.add_argument("--repeat", type=int, default=5, help="times each photograph is labelled")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="mere seconds, to see that it works")
    parser.add_argument("--weigh", nargs=7, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    every = ["models", "memory", *(["command"] if args.images else [])]
    args.parts = args.parts or every
    if wrong := set(args.parts) - {"models", "memory", "command"}:
        parser.error(f"no part {', '.join(wrong)}: there are models, memory, command")
    if "command" in args.parts and not args.images:
        parser.error("the part command needs --images FOLDER")
    if args.quick:
        args.sizes, args.batch_size, args.rounds, args.seconds = ["Ti"], [1], 2, 0.001
        args.memory_batch, args.repeat = 1, 1
    return args


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    args = parse(argv)
    if args.weigh:
        weigh_here(args.weigh)
        return
    torch.set_num_threads(args.threads)
    versions, missing = find_peers()
    for peer, why in missing.items():
        say(f"{peer} does not take part: {why}")
    peers = list(versions)
    found: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(torch.device(args.device)),
        "device": args.device,
        "dtype": args.dtype,
        "threads": torch.get_num_threads(),
        "versions": {**versions, "torch": torch.__version__},
        "missing": missing,
    }
    if "models" in args.parts:
        found["models"] = time_models(args, peers)
    if "memory" in args.parts:
        found["memory"] = weigh(args, peers)
    if "command" in args.parts:
        found["command"] = time_commands(args, peers)
    print(as_markdown(found, peers))
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
