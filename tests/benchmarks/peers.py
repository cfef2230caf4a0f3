"""Other ways to ablate units one at a time, as a researcher would write them: each takes the first ``count`` units."""

from __future__ import annotations

import torch
from captum.attr import LayerFeatureAblation
from nnsight import NNsight
from torch import Tensor, nn

from unitlab.compute.engine.layers import Site

__all__ = ["LOOPS"]


def hook_loop(model: nn.Module, site: Site, images: Tensor, count: int) -> None:
    """A forward hook for each unit."""
    for unit in range(count):

        def silence(_module: nn.Module, _inputs: object, output: Tensor, unit: int = unit) -> Tensor:
            output = output.clone()
            output[:, unit] = 0
            return output

        handle = model.get_submodule(site.module).register_forward_hook(silence)
        with torch.no_grad():
            model(images)
        handle.remove()


def captum_loop(model: nn.Module, site: Site, images: Tensor, count: int) -> None:
    """captum's LayerFeatureAblation with one feature a unit; the units beyond ``count`` are one feature more."""
    layer = model.get_submodule(site.module)
    kept = {}
    handle = layer.register_forward_hook(lambda _m, _i, output: kept.update(shape=output.shape))
    with torch.no_grad():
        model(images[:1])
    handle.remove()
    shape = (1, *kept["shape"][1:])
    mask = torch.arange(shape[1]).clamp(max=count - 1).reshape(1, -1, *[1] * (len(shape) - 2)).expand(shape)
    target = torch.zeros(len(images), dtype=torch.long, device=images.device)
    with torch.no_grad():
        LayerFeatureAblation(model, layer).attribute(
            images, target=target, layer_baselines=0, layer_mask=mask.to(images.device)
        )


def nnsight_loop(model: nn.Module, site: Site, images: Tensor, count: int) -> None:
    """An nnsight trace for each unit."""
    wrapped = NNsight(model)
    for unit in range(count):
        with torch.no_grad(), wrapped.trace(images):
            wrapped.get(site.module).output[:, unit] = 0
            wrapped.output.save()


LOOPS = {"hook loop": hook_loop, "captum": captum_loop, "nnsight": nnsight_loop}
