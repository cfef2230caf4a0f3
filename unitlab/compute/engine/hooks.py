"""Ablation by plain forward hooks: the reference that everything else must equal, and the way that always works."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn

from unitlab.compute.engine.ablation import BatchBaseline, predictions_and_margins, refuse_not_finite
from unitlab.compute.engine.layers import Site
from unitlab.compute.engine.unit_dimension import units_back, units_first


@contextmanager
def replaced_output(model: nn.Module, site: Site, replace: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Within the block, a site's value in each evaluation is ``replace(value)``, both (image, unit, …)."""
    with seen_output(model, site, lambda output: units_back(replace(units_first(output, site.unit_dim)), site.unit_dim)):
        yield


@contextmanager
def seen_output(model: nn.Module, site: Site, see: Callable[[Any], Any]) -> Iterator[None]:
    """Within the block, ``see`` gets what a site's call returns, as it is; what it returns takes its place, unless None."""
    seen = 0

    def count_from_zero(*_: object) -> None:
        nonlocal seen
        seen = 0

    def hook(_module: nn.Module, _inputs: object, output: Any) -> Any:
        nonlocal seen
        seen += 1
        return see(output) if seen == site.call + 1 else None

    handles = [model.register_forward_pre_hook(count_from_zero), model.get_submodule(site.module).register_forward_hook(hook)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def recorded_output(model: nn.Module, site: Site) -> Iterator[list[Tensor]]:
    """Within the block, a site's values (image, unit, …), one for each evaluation, are appended to a list."""
    recorded: list[Tensor] = []

    def keep(output: Tensor) -> Tensor:
        recorded.append(output.detach().clone())
        return output

    with replaced_output(model, site, keep):
        yield recorded


class HookEngine:
    """One evaluation of the whole network per set of units; same results as the suffix engine, for what it cannot cut.

    Two units on eight images are two evaluations of the eight images, with ``output[:, u] = ablated[:, u]`` at the site.
    """

    def __init__(self, model: nn.Module, site: Site, units: list[int]) -> None:
        self.model, self.site = model, site
        self.sets: list[list[int]] = [[unit] for unit in units]

    strategy = "forward hooks: one evaluation of the whole network for each unit"
    needed: frozenset[torch.fx.Node] = frozenset()

    def silence_together(self, sets: Sequence[Sequence[int]]) -> None:
        """From now on ablate each of these sets of units as a whole."""
        self.sets = [list(one) for one in sets]

    def evaluate(self, base: BatchBaseline, ablated: Tensor) -> tuple[Tensor, Tensor]:
        """Predictions and label margins, both (set, image), of one batch."""
        predictions, margins = [], []
        for units in self.sets:
            logits = self.logits(base.images, units, ablated)
            if not torch.isfinite(logits).all():
                refuse_not_finite(units)
            prediction, margin = predictions_and_margins(logits, base.labels)
            predictions.append(prediction)
            margins.append(margin)
        return torch.stack(predictions), torch.stack(margins)

    def logits(self, images: Tensor, units: list[int], ablated: Tensor) -> Tensor:
        """Logits (image, category) with the units replaced by their share of ``ablated`` (image, unit, …)."""

        def replace(output: Tensor) -> Tensor:
            out = output.clone()
            out[:, units] = ablated.expand_as(output)[:, units]
            return out

        with torch.no_grad(), replaced_output(self.model, self.site, replace):
            return self.model(images)
