"""The reference of the exactness tests: the unmodified network in float64, plain forward hooks, one unit at a time."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def logits_with_unit_replaced(
    model: nn.Module,
    images: Tensor,
    module: str,
    call: int,
    unit: Any,
    ablated: Tensor | None,
    basis: Tensor | None = None,
) -> Tensor:
    """Logits (image, category) of the network when one unit's output (or several units') is ``ablated[:, unit]``.

    With a basis (direction, channel), when the component of output − ablated along one direction is taken away.
    """
    seen = 0

    def hook(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor | None:
        nonlocal seen
        seen += 1
        if seen != call + 1 or unit is None:
            return None
        if basis is not None:
            v = basis[unit].to(output.dtype)
            along = torch.einsum("c,nc...->n...", v, output - ablated.to(output.dtype))
            return output - along.unsqueeze(1) * v.reshape(-1, *[1] * (output.dim() - 2))
        out = output.clone()
        out[:, unit] = ablated.to(output.dtype).expand_as(output)[:, unit]
        return out

    handle = model.get_submodule(module).register_forward_hook(hook)
    try:
        with torch.no_grad():
            return model(images)
    finally:
        handle.remove()


def site_output(model: nn.Module, images: Tensor, module: str, call: int) -> Tensor:
    """What the numbered call of the module returns."""
    outputs: list[Tensor] = []
    handle = model.get_submodule(module).register_forward_hook(lambda _m, _i, output: outputs.append(output.clone()))
    try:
        with torch.no_grad():
            model(images)
    finally:
        handle.remove()
    return outputs[call]


def replacement_values(values: Tensor, ablation: str, donors: np.ndarray | None) -> Tensor:
    """What every unit becomes, from the site's values (image, unit, …) on all images."""
    if ablation == "zero":
        return torch.zeros_like(values)
    if ablation == "mean":
        axes = [0, *range(2, values.dim())]
        return values.mean(axes, keepdim=True).expand_as(values)
    return values[torch.as_tensor(donors)]


def oracle_logits(
    model: nn.Module,
    images: Tensor,
    module: str,
    call: int,
    units: list[Any],
    *,
    ablation: str = "zero",
    donors: np.ndarray | None = None,
    basis: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Logits (unit, image, category) by plain hooks: in float64, which is the oracle, and in the network's own precision."""
    both = []
    for network in (copy.deepcopy(model).double(), model):
        pixels = images.to(next(network.parameters()).dtype)
        ablated = replacement_values(site_output(network, pixels, module, call), ablation, donors)
        logits = [logits_with_unit_replaced(network, pixels, module, call, unit, ablated, basis) for unit in units]
        both.append(torch.stack(logits).double())
    return both[0], both[1]


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
) -> None:
    """`assert_same_predictions` with the oracle of one network and layer."""
    exact, plain = oracle_logits(model, images, module, call, units, ablation=ablation, donors=donors, basis=basis)
    assert_same_predictions(prediction, units, exact, plain)
