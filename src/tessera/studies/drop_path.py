"""The study of stochastic depth and of FractalNet's drop-path."""

from typing import Any

from tessera.config import ViTConfig
from tessera.models.variants import count_parameters
from tessera.studies.design import Base, Claim, Study, Variant
from tessera.studies.networks import build_config, nearest, without_encoder
from tessera.studies.rules import better

RATE = 0.2
"""Of the last block, or of all."""

FRACTAL_RATE = 0.15
"""Local drop of a path: Larsson et al. (2017), section 4."""


def drop_paths(base: Base) -> list[Variant]:
    """Residual networks with and without drop, then a true FractalNet with and without."""
    off: dict[str, Any] = {"arch.drop_path_rate": 0.0}
    on = {"arch.drop_path_rate": RATE, "arch.drop_path_kind": "stochastic_depth"}
    fractal = nearest(_fractals(base), base, count_parameters)
    return [
        Variant(name="none", changes=off),
        Variant(name="linear", changes={**on, "arch.drop_path_rule": "linear"}),
        Variant(name="constant", changes={**on, "arch.drop_path_rule": "constant"}),
        Variant(
            name="residual_fractal",
            changes={**on, "arch.drop_path_kind": "residual_fractal"},
        ),
        Variant(name="fractalnet", changes={**fractal, **off}),
        Variant(name="fractalnet_drop", changes={**fractal, "arch.drop_path_rate": FRACTAL_RATE}),
    ]


def _fractals(base: Base) -> list[tuple[dict[str, Any], ViTConfig]]:
    """FractalNets of three columns whose last block sees at least two pixels a side."""
    found = []
    side = min(base.config.image_shape)
    for blocks in range(1, 6):
        if side % 2**blocks or side // 2**blocks < 2:
            continue
        for width in (8, 16, 24, 32, 48, 64):
            changes = {
                **without_encoder(base, "fractalnet_20"),
                "arch.stem_layers": blocks,
                "arch.stem_width": width,
                "arch.stem_columns": 3,
            }
            if (config := build_config(base, changes)) is not None:
                found.append((changes, config))
    deepest = max((config.stem_layers for _, config in found), default=0)
    return [(changes, config) for changes, config in found if config.stem_layers == deepest]


DROP_PATH = Study(
    title="Drop-path",
    question="Does dropping layers while training help, and which way of it?",
    varies=f"Stochastic depth at rate {RATE:g}, growing linearly or constant; our analogue of "
    "FractalNet's drop for residual blocks; a FractalNet of like size with and without its local "
    f"(rate {FRACTAL_RATE:g}) and global drop, half of a batch each.",
    variants=drop_paths,
    claims=(
        Claim(
            text="Stochastic depth makes a residual network better.",
            source="Huang et al. (2016), section 4",
            rule="It holds if the interval of the paired difference between the linear rule and "
            "no drop is above 0, and does not if it is below.",
            decide=better("linear", "none"),
        ),
        Claim(
            text="A rate that grows linearly is better than a constant one.",
            source="Huang et al. (2016), section 5",
            rule="It holds if the interval of the paired difference is above 0, and does not if it "
            "is below.",
            decide=better("linear", "constant"),
        ),
        Claim(
            text="Drop-path makes a FractalNet better.",
            source="Larsson et al. (2017), section 4 and table 1",
            rule="It holds if the interval of the paired difference is above 0, and does not if it "
            "is below.",
            decide=better("fractalnet_drop", "fractalnet"),
        ),
    ),
    settings={"digits": {"schedule.total_steps": 500}},
)
