"""Whether the logits of an image depend on the images that share its batch, and through which layer.

A sweep evaluates images in batches of its own choice: batch norm that takes statistics of the batch, or dropout that stays on,
would make every margin depend on that choice.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unitlab.compute.engine.user_network.outputs import Reading
from unitlab.compute.engine.user_network.working_copy import working_copy
from unitlab.errors import UnitlabError, what_it_says

EVAL_WANTED = "give a network that uses running statistics in eval()"


def alone_logits(module: nn.Module, image: Tensor) -> Tensor:
    """Logits of one image; some networks fail on it."""
    try:
        return module(image)
    except Exception as error:
        raise UnitlabError(
            f"the network takes two images and fails on one alone ({what_it_says(error)}); {_training(module) or EVAL_WANTED}"
        ) from error


def same(one: Tensor, other: Tensor, noise: float = 1e-5) -> bool:
    """Whether logits are equal but for float noise; what is not finite is refused later, where it is said."""
    if one.shape != other.shape or not (torch.isfinite(one).all() and torch.isfinite(other).all()):
        return one.shape == other.shape
    allowed = noise * (one.max() - one.min()) + noise / 10 * one.abs().max()
    return bool((one - other).abs().max() <= allowed)


def same_in_float64(model: nn.Module, device: torch.device, reading: Reading, company: Tensor) -> bool:
    """`_same`, where float32 leaves a doubt; where the network does not run in float64, by a wider measure."""
    try:
        module = reading.of(working_copy(model, device, dtype=torch.float64))
        return same(module(company.double())[:1], module(company[:1].double()), 1e-9)
    except UnitlabError:
        raise
    except Exception:
        module = reading.of(working_copy(model, device))
        return same(module(company)[:1], module(company[:1]), 1e-3)


def what_couples(module: nn.Module, company: Tensor) -> str:
    """Which layer gives other values for an image in company than for the same image alone."""
    recorded: list[list[tuple[str, Tensor]]] = []
    handles = [
        layer.register_forward_hook(lambda *call, name=name: recorded[-1].append((name, call[2])))
        for name, layer in module.named_modules()
        if not any(True for _ in layer.children())
    ]
    for images in (company, company[:1], company[:1]):
        recorded.append([])
        module(images)
    for handle in handles:
        handle.remove()
    for (name, together), (_, alone), (_, again) in zip(*recorded, strict=False):
        if not isinstance(together, Tensor) or not isinstance(alone, Tensor) or together.shape[1:] != alone.shape[1:]:
            continue
        if not torch.equal(alone, again):
            return (
                f"the network does not give the same result twice: '{name}' {_kind(module, name)} gives other "
                "values each time; give a network whose eval() ends that"
            )
        if not same(together[:1], alone, 1e-4):
            return (
                f"the logits of an image depend on the images that share its batch, through '{name}' {_kind(module, name)}; "
                f"{EVAL_WANTED}"
            )
    return f"the logits of an image depend on the images that share its batch; {_training(module) or EVAL_WANTED}"


def _kind(module: nn.Module, name: str) -> str:
    layer = module.get_submodule(name)
    told = [type(layer).__name__]
    if getattr(layer, "track_running_stats", True) is False or getattr(layer, "running_mean", 0) is None:
        told.append("without running statistics")
    if layer.training:
        told.append("left in train mode by the network's own train()")
    return f"({', '.join(told)})"


def _training(module: nn.Module) -> str:
    """Names of the layers that eval() left in train mode, with what to do."""
    names = [repr(name) for name, layer in module.named_modules() if layer.training and not any(True for _ in layer.children())]
    return f"eval() leaves {', '.join(names[:3])} in train mode; {EVAL_WANTED}" if names else ""
