"""The reference of the exactness tests: the unmodified network in float64, plain forward hooks, one unit at a time."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn


def logits_with_unit_replaced(
    model: nn.Module, images: Tensor, module: str, call: int, unit: int | None, ablated: Tensor | None
) -> Tensor:
    """Logits (image, category) of the network when one unit's output is ``ablated[:, unit]``."""
    seen = 0

    def hook(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor | None:
        nonlocal seen
        seen += 1
        if seen != call + 1 or unit is None:
            return None
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


def assert_exact(
    model: nn.Module,
    images: Tensor,
    module: str,
    call: int,
    units: list[int],
    prediction: np.ndarray,
    *,
    ablation: str = "zero",
    donors: np.ndarray | None = None,
    most_excused: float = 0.005,
) -> float:
    """Every prediction (unit, image) is the oracle's, but for pairs whose top-two margin is below the noise.

    The excuse: a float64 margin under max(1e-4 × the logits' range, 4 × |float32 hooks − float64 hooks|). Returns the
    share of excused pairs that differ.
    """
    double = copy.deepcopy(model).double()
    values = site_output(double, images.double(), module, call)
    ablated = replacement_values(values, ablation, donors)
    plain_values = site_output(model, images, module, call)
    plain_ablated = replacement_values(plain_values, ablation, donors)
    differing = 0
    for row, unit in enumerate(units):
        exact = logits_with_unit_replaced(double, images.double(), module, call, unit, ablated)
        plain = logits_with_unit_replaced(model, images, module, call, unit, plain_ablated).double()
        top = exact.topk(2, dim=1)
        margin = top.values[:, 0] - top.values[:, 1]
        spread = exact.amax(1) - exact.amin(1)
        noise = torch.maximum(1e-4 * spread, 4 * (exact - plain).abs().amax(1))
        # of logits that are exactly equal, as when all are removed, either class is right
        differs = exact.gather(1, torch.as_tensor(prediction[row]).long().unsqueeze(1)).squeeze(1) < top.values[:, 0]
        wrong = differs & (margin >= noise)
        assert not wrong.any(), (
            f"unit {unit}: images {wrong.nonzero().flatten().tolist()[:5]} differ from the oracle beyond float noise"
        )
        differing += int(differs.sum())
    share = differing / prediction.size
    assert share <= most_excused, f"{share:.2%} of the pairs differ within float noise"
    return share
