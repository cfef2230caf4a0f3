"""How the variables of the schema are shown: label, unit, and the factor from stored to shown values."""

from __future__ import annotations

from dataclasses import dataclass

from unitlab.schema import VARIABLES

__all__ = ["Quantity", "quantity"]


@dataclass(frozen=True)
class Quantity:
    """``label`` and ``unit`` (empty for a plain number) of an axis; shown value = ``factor`` × stored value."""

    label: str
    unit: str
    factor: float

    @property
    def title(self) -> str:
        """Label with its unit, as it stands at an axis."""
        return f"{self.label} ({self.unit})" if self.unit else self.label


def quantity(name: str) -> Quantity:
    """A variable as it is shown: of the schema, drops in points of 100; one that the reader brings, by its name."""
    if name not in VARIABLES:
        return Quantity(name, "", 1.0)
    row = VARIABLES[name]
    if "drop" in name and row.units == "1":
        return Quantity(row.long_name, "points", 100.0)
    return Quantity(row.long_name, "" if row.units == "1" else row.units, 1.0)
