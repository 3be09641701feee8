"""Measure how fast models run here."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from tyro.conf import Positional

from tessera.cli.parse import Command

if TYPE_CHECKING:
    from tessera.benchmarking.bench import Plan, Report


@dataclass(kw_only=True)
class Arguments(Command):
    """Measure speed, latency and memory of models on this machine, in interleaved rounds."""

    verb: ClassVar[str] = "bench"

    models: Positional[tuple[str, ...]] = ("vit_tiny_patch16_224",)
    """Names that `tessera models` lists (with random weights), artefacts, run folders, checkpoints
    or published weights."""
    batch_size: tuple[int, ...] = (1, 8, 32)
    """Images per call; each size is a row."""
    mode: tuple[str, ...] = ("float32",)
    """float32, bfloat16 (autocast), compile (float32) and compile-bfloat16; each is a row."""
    what: Literal["forward", "train", "both"] = "forward"
    """The forward pass, or a training step: forward, cross-entropy, backward, AdamW."""
    rounds: int = 5
    """Rounds in which the cases take turns; medians are over all calls of all rounds."""
    seconds: float = 0.5
    """For at least so long a case is called in each round."""
    threads: int | None = None
    """Threads on a processor; PyTorch's own number by default."""
    memory: bool = True
    """Measure peak memory too, each case in a process of its own."""
    device: str = "auto"
    """auto takes cuda, else mps, else cpu."""
    format: Literal["table", "json"] = "table"
    """A table for people, or every number for programs."""
    out: Path | None = None
    """File to write instead of the terminal; it must not exist."""
    offline: bool = False
    """Never fetch published weights; take them from the cache or not at all."""

    def run(self) -> int:
        """Measure and print."""
        if self.out is not None and self.out.exists():
            raise ValueError(f"{self.out} exists, and nothing is overwritten\nhint: name another")
        if self.out is not None and not self.out.parent.is_dir():
            raise ValueError(f"{self.out.parent} is no folder\nhint: make it first")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"--threads {self.threads} must be at least 1")
        plan = self._plan()  # refuses what cannot be before anything slow is loaded or run
        report = self._measure(plan)
        if self.format == "json":
            text = json.dumps(report.as_dict(), indent=2) + "\n"
        else:
            text = as_table(report)
        if self.out is None:
            sys.stdout.write(text)
        else:
            self.out.write_text(text, encoding="utf-8")
        return 0

    def _plan(self) -> "Plan":
        from tessera.benchmarking.bench import Plan

        return Plan(
            models=self.models,
            batch_sizes=self.batch_size,
            modes=self.mode,
            tasks=("forward", "train") if self.what == "both" else (self.what,),
            rounds=self.rounds,
            seconds=self.seconds,
            memory=self.memory,
            offline=self.offline,
        )

    def _measure(self, plan: "Plan") -> "Report":
        import torch
        from rich.console import Console

        from tessera.benchmarking.bench import bench, pieces
        from tessera.devices import pick_device
        from tessera.progress import counting

        before = torch.get_num_threads()
        torch.set_num_threads(self.threads or before)
        try:
            device = pick_device(self.device)
            with counting(Console(stderr=True), "measuring", pieces(plan, device)) as counter:
                return bench(plan, device, done=counter.advance)
        finally:
            torch.set_num_threads(before)


def as_table(report: "Report") -> str:
    """Write for people, with what the columns mean below."""
    found = report.environment
    packages = found["packages"]
    head = (
        f"{found['device']}, {found['threads']} threads of {found['cores']} cores, "
        f"torch {packages['torch']}, tessera {packages['tessera-vit']}, {found['time'][:10]}\n"
    )
    for mode, peak in report.peaks.items():
        if peak is not None:
            head += f"peak for {mode}: {peak.tflops:.3g} TFLOP/s ({peak.source})\n"
    titles = ("model", "what", "mode", "batch", "images/s", "ms", "p90 ms", "MB", "GMAC", "MFU")
    rows = [(*titles, "max logit difference")]
    for row in report.rows:
        case = row.case
        rows.append(
            (
                case.model if len(case.model) < 50 else f"...{case.model[-46:]}",
                case.task,
                case.mode,
                str(case.batch_size),
                f"{row.images_per_second:,.1f}",
                f"{row.latency_ms:,.2f}",
                f"{row.latency_p90_ms:,.2f}",
                "" if row.peak_memory is None else f"{row.peak_memory / 1e6:,.0f}",
                f"{row.gmac:.2f}",
                "" if row.mfu is None else f"{row.mfu:.1%}",
                "" if row.logit_difference is None else f"{row.logit_difference:.2g}",
            )
        )
    widths = [max(len(row[k]) for row in rows) for k in range(len(titles) + 1)]
    lines = [
        "  ".join(f"{cell:{'<' if k < 3 else '>'}{widths[k]}}" for k, cell in enumerate(row))
        for row in rows
    ]
    return f"{head}\n" + "\n".join(line.rstrip() for line in lines) + f"\n\n{_legend(report)}\n"


def _legend(report: "Report") -> str:
    plan, train = report.plan, "train" in report.plan.tasks
    lines = [
        f"ms: median and 90th percentile of all calls of {plan.rounds} interleaved rounds.",
        "GMAC: of one image, every token through every block.",
    ]
    if any(row.mfu is not None for row in report.rows):
        lines.append(
            f"MFU: {'3 x ' if train else ''}2 x GMAC x images/s / peak"
            + (" (without the 3 x for forward)." if train and len(plan.tasks) > 1 else ".")
        )
    if plan.memory:
        lines.append("MB: most memory in a process of its own, weights included.")
    if any(row.logit_difference is not None for row in report.rows):
        lines.append("max logit difference: from float32, on the same images in this run.")
    return "\n".join(lines)
