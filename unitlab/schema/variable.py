"""One variable of the schema, and the dimensions that most have."""

from dataclasses import dataclass
from typing import Any

UNIT, CELL, CLASS, IMAGE = ("unit",), ("unit", "category"), ("category",), ("image",)

# what could have been drawn otherwise: images (clusters, where they come in such), units, trained networks, rotated bases
SAMPLINGS = ("images", "units", "seeds", "bases")


@dataclass(frozen=True)
class Variable:
    """One variable: ``level`` says which group of a store holds it (study, layer, ablation), or which function returns it
    (damage, attributes, …)."""

    level: str
    name: str
    dims: tuple[str, ...]
    kind: str  # numpy dtype kinds that are allowed: "i" integers, "f" floats, "u" bytes, "b" booleans, "T" text
    units: str
    long_name: str
    comment: str
    required: bool = True
    coordinate: bool = False
    # of an interval's limits: which sampling they cover, of `SAMPLINGS`; what is not named was held as it is
    covers: tuple[str, ...] = ()

    @property
    def attrs(self) -> dict[str, Any]:
        """What an array of this variable carries."""
        covered = {"covers": " and ".join(self.covers)} if self.covers else {}
        return {"long_name": self.long_name, "units": self.units, "comment": self.comment, **covered}
