"""The study of models over growing parts of the training images, after the paper's section 4.3."""

from typing import Any

from tessera.config import ViTConfig
from tessera.models.variants import count_parameters
from tessera.studies.design import Axis, Base, Claim, Study, Variant
from tessera.studies.networks import build_config, nearest, without_encoder
from tessera.studies.rules import better, gains_more

SHARES = (0.1, 0.2, 0.5, 1.0)
"""Parts of the training images, each inside the next."""

LEAST, MOST = (f"{100 * share:g} %" for share in (SHARES[0], SHARES[-1]))


def data_sizes(base: Base) -> list[Variant]:
    """A Vision Transformer, a ResNetV2 and a hybrid of like size, on each part."""
    models: dict[str, dict[str, Any]] = {
        "vit": {},
        "resnet": nearest(_resnets(base), base, count_parameters),
        "hybrid": nearest(_hybrids(base), base, count_parameters),
    }
    return [
        Variant(
            name=f"{model} {100 * share:g} %",
            changes=changes,
            share=share,
            curve=model,
            x=100 * share,
        )
        for model, changes in models.items()
        for share in SHARES
    ]


def _resnets(base: Base) -> list[tuple[dict[str, Any], ViTConfig]]:
    found = []
    for blocks in ((1, 1), (2, 2), (1, 1, 1), (2, 2, 2), (3, 4, 6, 3)):
        for width in (32, 64):
            changes = {
                **without_encoder(base, "resnetv2_50x1"),
                "arch.stem_blocks": blocks,
                "arch.stem_width": width,
            }
            config = build_config(base, changes)
            if config is not None and min(config.grid) > 1:
                found.append((changes, config))
    return found


def _hybrids(base: Base) -> list[tuple[dict[str, Any], ViTConfig]]:
    """The same encoder behind convolutions that cut the image into as many tokens.

    CCT's tokenizer makes patches of 2, 4 or 8 pixels, the root of a ResNet larger ones.
    """
    patch = base.config.patch_size
    stems: list[dict[str, Any]] = []
    if patch in (2, 4, 8):
        layers = {2: 1, 4: 2, 8: 3}[patch]
        stems.append({"arch.patch_embed": "tokenizer", "arch.stem_layers": layers})
    elif patch % 4 == 0:
        stems += [
            {"arch.patch_embed": "resnet", "arch.stem_blocks": blocks}
            for blocks in ((), (1, 1), (1, 1, 1))
        ]
    found = []
    for stem in stems:
        for width in (32, 64):
            changes = {**stem, "arch.patch_size": patch, "arch.stem_width": width}
            if (config := build_config(base, changes)) is not None:
                found.append((changes, config))
    return found


DATA_SIZE = Study(
    title="Size of the data",
    question="How many images does each kind of model need?",
    varies="Nested, stratified parts of the training images, and three models of like size: a "
    "plain Vision Transformer, a ResNetV2, and a hybrid with convolutions before the encoder; all "
    "take the same number of steps.",
    variants=data_sizes,
    axis=Axis(label="training images, %"),
    claims=(
        Claim(
            text="With few images a ResNet is better than a Vision Transformer.",
            source="Dosovitskiy et al. (2020), section 4.3 and figure 4",
            rule=f"It holds if the interval of the paired difference at {LEAST} is above 0, and "
            "does not if it is below.",
            decide=better(f"resnet {LEAST}", f"vit {LEAST}"),
        ),
        Claim(
            text="With more images a Vision Transformer catches up.",
            source="Dosovitskiy et al. (2020), section 4.3 and figure 4",
            rule=f"Gains from {LEAST} to {MOST} of the images, seed by seed: it holds if the "
            "interval of the transformer's gain less the ResNet's is above 0, and does not if it "
            "is below.",
            decide=gains_more(
                (f"vit {LEAST}", f"vit {MOST}"), (f"resnet {LEAST}", f"resnet {MOST}")
            ),
        ),
        Claim(
            text="At a small budget of compute a hybrid is better than a plain Vision Transformer.",
            source="Dosovitskiy et al. (2020), section 4.4 and figure 5",
            rule=f"It holds if the interval of the paired difference at {MOST} is above 0, and "
            "does not if it is below.",
            decide=better(f"hybrid {MOST}", f"vit {MOST}"),
        ),
    ),
    settings={"digits": {"schedule.total_steps": 300}},
)
