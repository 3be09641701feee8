"""The study of position schemes, after the paper's D.4."""

from tessera.config import POS_PLACES
from tessera.studies.design import Base, Claim, Study, Variant
from tessera.studies.rules import alike, worst

QUICK = {
    "schedule.total_steps": 300,
    "optim.name": "muon",
    "optim.lr": 2e-2,
    "augment.mixup": 0.0,
}
"""Of the recipe for digits: enough for tables that start at zero. With AdamW at 5e-3 and 300 to
1,000 steps the scalar bias has not left zero far enough to help (docs/log.md)."""


def positions(base: Base) -> list[Variant]:
    """Every scheme at its usual place, or at all that it has."""
    found = []
    for scheme, places in POS_PLACES.items():
        for place in places if base.places else places[:1]:
            is_usual = place == places[0]
            changes = {"arch.pos_embed": scheme, "arch.pos_place": place}
            name = scheme if is_usual else f"{scheme} {place}"
            found.append(Variant(name=name, changes=changes))
    return found


POSITIONS = Study(
    title="Position schemes",
    question="Does it matter how a patch is told where it is?",
    varies="The position scheme, each at its usual place; with --places at the stem, at every "
    "block, and shared by all blocks, wherever it can be.",
    variants=positions,
    seeds=5,
    claims=(
        Claim(
            text="Without positions a model is worse than with any of them.",
            source="Dosovitskiy et al. (2020), D.4 and table 8",
            rule="It holds if the intervals of all paired differences, of a scheme less none, are "
            "above 0. It does not if one is below 0 at a level corrected for their number.",
            decide=worst("none"),
            is_about_all=True,
        ),
        Claim(
            text="Which scheme it is makes little or no difference.",
            source="Dosovitskiy et al. (2020), D.4 and table 8",
            rule="It holds if the intervals of all paired differences, of a scheme less the "
            "learned table, are within 1 point of 0. It does not if one lies beyond at a level "
            "corrected for their number.",
            decide=alike("learned", leave_out=("none",)),
            is_about_all=True,
        ),
    ),
    settings={"digits": QUICK},
)
