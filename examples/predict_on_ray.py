"""Label a folder of images of any size on a Ray cluster, or on this machine where there is none.

    pip install 'tessera-vit[cluster]'
    python examples/predict_on_ray.py MODEL IMAGES OUT [--processes 2]

MODEL is what `tessera predict` takes, IMAGES a folder that all nodes see, and OUT a folder for
parquet files with the columns image, label and probability. Images that cannot be read have no
label, and their error instead.
"""

import argparse
import logging
from pathlib import Path
from typing import Any

import ray

import tessera
from tessera.data.images import SUFFIXES, ImageError

Columns = dict[str, Any]


class Labeller:
    """Holds a model in one process of the cluster, and labels batches of paths.

    Args:
        model: Any MODEL.
        device: ``auto`` takes a GPU where Ray gave this process one.
    """

    def __init__(self, model: str, device: str = "cpu") -> None:
        self.predictor = tessera.load(model, device=device)

    def __call__(self, batch: Columns) -> Columns:
        """Add label, probability and error to a column ``image`` of paths."""
        paths = [str(path) for path in batch["image"]]
        try:
            rows = self._answers(paths)
        except ImageError:  # of one of them: the others are answered all the same
            rows = [row for path in paths for row in self._answers_or_error(path)]
        names = ("label", "probability", "error")
        return {"image": paths, **{name: [row[name] for row in rows] for name in names}}

    def _answers(self, paths: list[str]) -> list[Columns]:
        found = self.predictor.predict(paths, top_k=1)
        return [
            {"label": each.labels[0], "probability": each.probabilities[0], "error": ""}
            for each in found
        ]

    def _answers_or_error(self, path: str) -> list[Columns]:
        try:
            return self._answers([path])
        except ImageError as error:
            return [{"label": "", "probability": float("nan"), "error": str(error)}]


def main() -> None:
    """Read the arguments, and label."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("images", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--gpus-per-process", type=float, default=0)
    args = parser.parse_args()
    paths = sorted(str(p) for p in args.images.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not paths:
        parser.error(f"{args.images} has no images")
    if args.out.exists():
        parser.error(f"{args.out} exists, and nothing is overwritten")
    ray.init(include_dashboard=False, logging_level=logging.WARNING)
    ray.data.DataContext.get_current().enable_progress_bars = False
    images = ray.data.from_items([{"image": path} for path in paths])
    labelled = images.map_batches(
        Labeller,
        fn_constructor_args=(args.model, "cuda" if args.gpus_per_process else "cpu"),
        batch_size=64,
        compute=ray.data.ActorPoolStrategy(size=args.processes),
        num_cpus=0.5,  # leaves room for the processes that feed these
        num_gpus=args.gpus_per_process,
    )
    labelled.write_parquet(str(args.out))
    unread = ray.data.read_parquet(str(args.out)).filter(expr="error != ''").count()
    print(f"{len(paths)} images in {args.out}, {unread} of which cannot be read")


if __name__ == "__main__":
    main()
