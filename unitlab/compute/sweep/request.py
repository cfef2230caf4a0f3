"""What a sweep is asked for: checked once, said by `unitlab.estimate`, sent to workers as it is."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

from unitlab.compute.engine.ablation import ABLATIONS
from unitlab.compute.engine.directions import Basis
from unitlab.compute.engine.scores import Outcome
from unitlab.compute.engine.user_network.outputs import Output, function_name
from unitlab.errors import UnitlabError, check_seed

LABELS = ("given", "predicted")
PRECISIONS = ("float32", "bfloat16", "tf32")
MOST_MISSED = 0.5
LEAST_MEMORY = 64 * 10**6


@dataclass(frozen=True, eq=False)
class SweepRequest:
    """The keywords of `unitlab.ablate` that decide what is computed.

    ``axes`` are the bases of the layers, worked out from ``basis`` already: what workers get in its place. ``free`` is how much
    of ``memory`` there is, where that was found to be less.

    Raises
    ------
    UnitlabError
        What no network and no images could make valid.
    """

    layer: str | Sequence[str]
    units: Sequence[int] | None = None
    ablation: str = "zero"
    basis: Any = None
    power: float | None = None
    directions: Any = None
    subtract: Any = None
    labels: str = "given"
    precision: str = "float32"
    batch_size: int | None = None
    memory: str | int | None = "2 GB"
    seed: int = 0
    output: Output = None
    axes: tuple[Basis | None, ...] | None = None
    free: int | None = None
    unit_dim: int | Mapping[str, int] | None = None
    top_k: int | None = None
    outcome: Outcome | tuple[str, Outcome] | None = None
    screen: float | None = None

    def __post_init__(self) -> None:
        for name, valid in (("ablation", ABLATIONS), ("labels", LABELS), ("precision", PRECISIONS)):
            value = getattr(self, name)
            if value not in valid:
                raise UnitlabError(f"{name}={value!r} is not known; valid: {', '.join(map(repr, valid))}")
        self._check_directions()
        if self.batch_size is not None and (not isinstance(self.batch_size, int) or self.batch_size < 1):
            raise UnitlabError(f"batch_size={self.batch_size!r} must be a positive number of images")
        check_seed(self.seed)
        if isinstance(self.output, bool) or not (callable(self.output) or isinstance(self.output, str | int | None)):
            raise UnitlabError(
                f"output={self.output!r:.60} tells no element of what the network returns; give a name such as 'logits', an "
                "index such as 0, or a function of what it returns"
            )
        if self.top_k is not None and (isinstance(self.top_k, bool) or not isinstance(self.top_k, int) or self.top_k < 0):
            raise UnitlabError(f"top_k={self.top_k!r} must be a number of classes such as 5, or 0 for none")
        self._check_outcome()
        _check_screen(self)
        # what the caller does to its lists later does not change what was checked
        object.__setattr__(self, "layer", _names(self.layer))
        object.__setattr__(self, "units", _numbers(self.units))
        object.__setattr__(self, "unit_dim", _dimension(self.unit_dim))
        if self.memory not in (None, "auto"):
            _ = self.budget

    def with_axes(self, axes: Iterable[Basis | None]) -> SweepRequest:
        """The same with the axes of the layers worked out, if they are not the units' own."""
        found = tuple(axes)
        return replace(self, basis=None, power=None, directions=None, subtract=None, axes=found if any(found) else None)

    def _check_directions(self) -> None:
        if self.basis is not None and self.directions is not None:
            raise UnitlabError("basis= and directions= exclude each other; give an orthogonal basis, or any directions")
        if self.power is not None:
            number = isinstance(self.power, int | float) and not isinstance(self.power, bool)
            if not number or not 0 <= self.power <= 1:
                raise UnitlabError(f"power={self.power!r} is no part of a rotation; give a number from 0 (none) to 1 (all)")
            if self.basis is None:
                raise UnitlabError("power= tells how far a basis is turned; give basis='random' with it")
        if self.subtract is not None:
            if self.directions is None or not callable(self.subtract):
                raise UnitlabError(
                    "subtract= is a function from the layer's values (image, channel, …) to the codes (image, direction, …) of "
                    "directions=; give both"
                )
            if self.ablation != "zero":
                raise UnitlabError(f"subtract= takes codes away, which ablation={self.ablation!r} does not do; leave it out")

    def __str__(self) -> str:
        """What is not left at its default."""
        given = ((field, " ".join(repr(getattr(self, field.name)).split())) for field in fields(self) if field.name != "free")
        return ", ".join(f"{field.name}={text:.60}" for field, text in given if text != repr(field.default))

    def _check_outcome(self) -> None:
        name, function = self.named_outcome
        if self.outcome is not None and not (callable(function) and isinstance(name, str) and name.strip()):
            raise UnitlabError(
                f"outcome={self.outcome!r:.60} is no function; give f(logits, label), or a name and a function: "
                "('probability', f)"
            )
        if self.outcome is not None and self.precision != "float32":
            raise UnitlabError(
                f"precision={self.precision!r} keeps predictions exact and no outcome; leave it out for an outcome"
            )

    @property
    def named_outcome(self) -> tuple[str, Outcome | None]:
        """Name and function of the outcome; ("", None) where there is none."""
        if isinstance(self.outcome, tuple):
            return self.outcome if len(self.outcome) == 2 else ("", None)
        return ("", None) if self.outcome is None else (function_name(self.outcome), self.outcome)

    @property
    def layers(self) -> list[str]:
        """The names asked for, "all" among them."""
        return [self.layer] if isinstance(self.layer, str) else list(self.layer)

    def dimension(self, layer: str) -> int | None:
        """The dimension of a layer's units that is asked for; None where unitlab decides."""
        return self.unit_dim.get(layer) if isinstance(self.unit_dim, Mapping) else self.unit_dim

    @property
    def one_layer(self) -> bool:
        """Whether the answer is a dataset, and not one for each layer."""
        return isinstance(self.layer, str) and self.layer != "all"

    @cached_property
    def budget(self) -> int:
        """``memory`` in bytes; None and "auto" have become some by then."""
        powers = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
        match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([a-zA-Z]*)\s*", str(self.memory))
        if match is None or match[2].lower() not in powers:
            raise UnitlabError(
                f"memory={self.memory!r} is not an amount of memory; give '2 GB', '512 MB', a number of bytes, or 'auto'"
            )
        amount = int(float(match[1]) * powers[match[2].lower()])
        if amount < LEAST_MEMORY:
            raise UnitlabError(f"memory={self.memory!r} is too little; give '64 MB' or more")
        return amount


def _check_screen(request: SweepRequest) -> None:
    screen = request.screen
    if screen is None:
        return
    if isinstance(screen, bool) or not isinstance(screen, int | float) or not 0 < screen <= MOST_MISSED:
        raise UnitlabError(
            f"screen={screen!r:.40} is no share of changed predictions that may be missed; give 0.01 for 1 %, {MOST_MISSED} at "
            "most, or leave it out to evaluate every pair"
        )
    for name in ("basis", "directions", "outcome", "top_k"):
        given = getattr(request, name)
        if given is not None and not (name == "top_k" and given == 0):
            raise UnitlabError(f"screen= leaves pairs out, and {name}= needs every pair evaluated; leave one of the two out")


def _names(layer: str | Sequence[str]) -> str | list[str]:
    if isinstance(layer, str):
        return layer
    names = list(layer) if isinstance(layer, Iterable) else []
    if not names:
        raise UnitlabError(f"layer={layer!r} names no layer; give a module name such as 'layer4', a list of them, or 'all'")
    return names


def _dimension(given: int | Mapping[str, int] | None) -> int | dict[str, int] | None:
    dims = list(given.values()) if isinstance(given, Mapping) else [] if given is None else [given]
    if any(isinstance(dim, bool) or not isinstance(dim, int) or dim == 0 for dim in dims):
        raise UnitlabError(
            f"unit_dim={given!r:.60} is no dimension of units; give 1 for (image, unit, row, column), -1 for "
            "(image, token, unit), or a dict from layers to such numbers"
        )
    return dict(given) if isinstance(given, Mapping) else given


def _numbers(units: Sequence[int] | None) -> list[int] | None:
    if units is None:
        return None
    try:
        chosen = [operator.index(unit) for unit in units]
    except TypeError as error:
        raise UnitlabError(f"units={units!r:.60} is not a list of unit numbers; give for example units=[3, 5]") from error
    if not chosen:
        raise UnitlabError("units=[] names no unit; leave it out for all units")
    return chosen
