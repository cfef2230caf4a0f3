"""One variable of the schema."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Variable:
    """One variable: ``level`` says which group of a store holds it (study, layer, ablation), or which function returns it
    (damage, attributes, …)."""

    name: str
    level: str
    dims: tuple[str, ...]
    kind: str  # numpy dtype kinds that are allowed: "i" integers, "f" floats, "u" bytes, "b" booleans, "T" text
    long_name: str
    units: str
    comment: str
    required: bool = True
    coordinate: bool = False
