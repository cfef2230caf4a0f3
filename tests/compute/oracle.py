"""The reference of the exactness tests: the unmodified network in float64 with plain forward hooks."""

from __future__ import annotations

import copy
import functools
import itertools
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Site = tuple[str, int]  # module, number of its call from 0
MOST_ROWS = 512


def site_output(model: nn.Module, images: Tensor, module: str, call: int) -> Tensor:
    """What the numbered call of the module returns."""
    return HookedNetwork(model, images, [(module, call)]).returned[module][call]


def _keep_returned(kept: list[Tensor], _module: nn.Module, _given: object, returned: Tensor) -> None:
    kept.append(returned.clone())


def _keep_given(kept: list[Tensor], _module: nn.Module, given: tuple[Tensor, ...]) -> None:
    kept.append(given[0].clone())


class HookedNetwork:
    """A network, some images, and what its sites return on them, which one pass records.

    Units are replaced in one forward for many of them: the images are repeated once for each unit, and a hook gives the site's
    every repetition with another unit replaced. In eval mode no row of a batch sees another.
    """

    def __init__(self, model: nn.Module, images: Tensor, sites: list[Site]) -> None:
        self.model, self.images = model, images.to(next(model.parameters()).dtype)
        self.returned: dict[str, list[Tensor]] = {module: [] for module, _ in sites}
        self.given: dict[str, list[Tensor]] = {}
        with ExitStack() as hooks, torch.no_grad():
            for module, returned in self.returned.items():
                keep = functools.partial(_keep_returned, returned)
                hooks.callback(model.get_submodule(module).register_forward_hook(keep).remove)
                if (block := self._block(module)) != module and block not in self.given:
                    keep = functools.partial(_keep_given, self.given.setdefault(block, []))
                    hooks.callback(model.get_submodule(block).register_forward_pre_hook(keep).remove)
            model(self.images)

    def _block(self, module: str) -> str:
        """The outermost module around this one that is no container, or this one."""
        containers = (nn.Sequential, nn.ModuleList)
        ends = [end for end, letter in enumerate(module) if letter == "."]
        around = (module[:end] for end in ends)
        return next((name for name in around if not isinstance(self.model.get_submodule(name), containers)), module)

    def logits(self, site: Site, units: list[Any], ablated: Tensor, basis: Tensor | None, dim: int = 1) -> Tensor:
        """Logits (unit, image, category) when each unit's output (or several units') is ``ablated[:, unit]``.

        Units are along ``dim`` of the site's value and of ``ablated``. With a basis (direction, channel), when the component of
        output − ablated along one direction is taken away.
        """
        at_once = max(1, MOST_ROWS // len(self.images))
        parts = [units[first : first + at_once] for first in range(0, len(units), at_once)]
        return torch.cat([self._logits(site, part, ablated, basis, dim) for part in parts])

    def _logits(self, site: Site, units: list[Any], ablated: Tensor, basis: Tensor | None, dim: int) -> Tensor:
        module, call = site

        def repeated(values: Tensor) -> Tensor:
            return values.repeat(len(units), *[1] * (values.dim() - 1))

        def run(images: Tensor, block: str) -> Tensor:
            calls = itertools.count()

            def replace(_module: nn.Module, _inputs: object, _output: Tensor) -> Tensor | None:
                if next(calls) != call:
                    return None
                out = repeated(self.returned[module][call])
                for rows, unit in zip(out.split(len(self.images)), units, strict=True):
                    _replace(rows, unit, ablated, basis, dim)
                return out

            with ExitStack() as hooks, torch.no_grad():
                hooks.callback(self.model.get_submodule(module).register_forward_hook(replace).remove)
                if block in self.given:
                    (given,) = self.given[block]
                    enter = self.model.get_submodule(block).register_forward_pre_hook(lambda *_: (repeated(given),))
                    hooks.callback(enter.remove)
                return self.model(images).unflatten(0, (len(units), len(self.images)))

        # what is before the site's block need not run on all rows, where no other way leads around it: there, torch refuses to
        # add or concatenate two images and many
        try:
            return run(self.images[:2], self._block(module))
        except RuntimeError:
            return run(repeated(self.images), "")


def _replace(rows: Tensor, unit: Any, ablated: Tensor, basis: Tensor | None, dim: int) -> None:
    """One unit (or several) of all images, in place."""
    if basis is None:
        where = (*[slice(None)] * (dim % rows.dim()), unit)
        rows[where] = ablated.expand_as(rows)[where]
    else:
        v = basis[unit].to(rows.dtype)
        along = torch.tensordot(rows - ablated, v, ([dim], [0])).unsqueeze(dim)
        rows -= along * v.reshape(-1, *[1] * (rows.dim() - 1 - dim % rows.dim()))


def replacement_values(values: Tensor, ablation: str, donors: np.ndarray | None, dim: int = 1) -> Tensor:
    """What every unit becomes, from the site's values (image, unit, …) on all images."""
    if ablation == "zero":
        return torch.zeros_like(values)
    if ablation == "mean":
        axes = [axis for axis in range(values.dim()) if axis != dim % values.dim()]
        return values.mean(axes, keepdim=True).expand_as(values)
    return values[torch.as_tensor(donors)]


class Oracle:
    """Logits by plain hooks: in float64, which is the oracle, and in the network's own precision."""

    def __init__(self, model: nn.Module, images: Tensor, sites: list[Site]) -> None:
        self.networks = [HookedNetwork(network, images, sites) for network in (copy.deepcopy(model).double(), model)]

    def logits(
        self,
        site: Site,
        units: list[Any],
        *,
        ablation: str = "zero",
        donors: np.ndarray | None = None,
        basis: Tensor | None = None,
        dim: int = 1,
    ) -> tuple[Tensor, Tensor]:
        """Logits (unit, image, category) with each unit replaced, in both precisions."""
        module, call = site
        exact, plain = (
            network.logits(site, units, replacement_values(network.returned[module][call], ablation, donors, dim), basis, dim)
            for network in self.networks
        )
        return exact, plain.double()


def assert_same_predictions(
    prediction: np.ndarray, units: list[Any], exact: Tensor, plain: Tensor, *, most_excused: float = 0.005
) -> None:
    """Every prediction (unit, image) is the oracle's, but for pairs whose top-two margin is below the noise.

    The excuse: a float64 margin under max(1e-4 × the logits' range, 4 × |float32 hooks − float64 hooks|).
    """
    top = exact.topk(2, dim=2)
    margin = top.values[..., 0] - top.values[..., 1]
    spread = exact.amax(2) - exact.amin(2)
    noise = torch.maximum(1e-4 * spread, 4 * (exact - plain).abs().amax(2))
    # of logits that are exactly equal, as when all units are silent, either class is right
    differs = exact.gather(2, torch.as_tensor(prediction).long().unsqueeze(2)).squeeze(2) < top.values[..., 0]
    wrong = (differs & (margin >= noise)).nonzero().tolist()
    pairs = [(units[row], image) for row, image in wrong[:5]]
    assert not wrong, f"{len(wrong)} (unit, image) pairs, such as {pairs}, differ from the oracle beyond float noise"
    share = float(differs.double().mean())
    assert share <= most_excused, f"{share:.2%} of the pairs differ within float noise"


def assert_exact(
    model: nn.Module,
    images: Tensor,
    module: str,
    call: int,
    units: list[Any],
    prediction: np.ndarray,
    *,
    ablation: str = "zero",
    donors: np.ndarray | None = None,
    basis: Tensor | None = None,
    dim: int = 1,
) -> None:
    """`assert_same_predictions` with the oracle of one network and layer."""
    oracle = Oracle(model, images, [(module, call)])
    exact, plain = oracle.logits((module, call), units, ablation=ablation, donors=donors, basis=basis, dim=dim)
    assert_same_predictions(prediction, units, exact, plain)
