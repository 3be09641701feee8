"""Where a patch sits: E_pos of equation 1, and one table that names every scheme."""

from difflib import get_close_matches

from tessera.nn.positions.absolute import Learned, Learned2d, SinCos1d, SinCos2d
from tessera.nn.positions.base import NoPosEmbed, PosEmbed, PosSpec, Rotation
from tessera.nn.positions.grids import resample
from tessera.nn.positions.relative import Bias2d, RelativeRaster, Shaw, ShawBias, ShawValues
from tessera.nn.positions.rotary import Rope2d, Rope2dMixed

__all__ = [
    "POS_EMBEDS",
    "Learned",
    "PosEmbed",
    "PosSpec",
    "Rope2d",
    "Rotation",
    "SinCos2d",
    "make_pos_embed",
    "resample",
]

POS_EMBEDS: dict[str, type[PosEmbed]] = {
    "none": NoPosEmbed,
    "learned": Learned,
    "learned2d": Learned2d,
    "sincos1d": SinCos1d,
    "sincos2d": SinCos2d,
    "rope2d": Rope2d,
    "rope2d_mixed": Rope2dMixed,
    "shaw": Shaw,
    "shaw_values": ShawValues,
    "shaw_bias": ShawBias,
    "relative": RelativeRaster,
    "bias2d": Bias2d,
}


def make_pos_embed(name: str, spec: PosSpec) -> PosEmbed:
    """Build a scheme by name.

    Raises:
        ValueError: No such scheme, or it does not fit the model's widths.
    """
    if name not in POS_EMBEDS:
        close = get_close_matches(name, POS_EMBEDS, n=1)
        guess = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(
            f"unknown position scheme pos_embed={name!r}\n"
            f"hint: {guess}known are {', '.join(POS_EMBEDS)}"
        )
    return POS_EMBEDS[name](spec)
