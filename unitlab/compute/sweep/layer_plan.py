"""What is decided of one layer before the first image."""

from __future__ import annotations

from dataclasses import dataclass

from unitlab.compute.engine.ablation import Engine
from unitlab.compute.engine.directions import Basis
from unitlab.compute.engine.layers import Site
from unitlab.compute.engine.suffix import SuffixEngine
from unitlab.compute.engine.unit_dimension import UnitLayout


@dataclass(frozen=True)
class LayerPlan:
    """One layer: its site and where in the value there the units are; what is ablated, in which basis, and how."""

    name: str
    site: Site
    layout: UnitLayout
    units: list[int]
    basis: Basis | None
    engine: Engine

    @property
    def screenable(self) -> bool:
        """Whether some of its pairs can be left out: what closed forms and hooks evaluate costs no less without them."""
        return isinstance(self.engine, SuffixEngine) and self.basis is None and self.engine.screenable

    @property
    def channels(self) -> list[int]:
        """What stands beside the units in the layer's own group: of more directions than channels, the last over and over."""
        return [min(unit, self.layout.shape[1] - 1) for unit in self.units]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the site's value for one image, its units first: (image=1, unit, …)."""
        return self.layout.shape
