"""Results of a batch come to the host in one copy: on a GPU each copy would wait for all that was asked before it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class HostCopies:
    """Tensors that are wanted on the host, and what is done with them there: then, then, …, deliver."""

    def __init__(self) -> None:
        self.wanted: dict[int, Tensor] = {}
        self.uses: list[tuple[Callable[..., object], list[int]]] = []

    def then(self, use: Callable[..., object], *tensors: Tensor) -> None:
        """Call ``use`` with these tensors once they are on the host; what several want is copied once."""
        self.wanted.update({id(tensor): tensor for tensor in tensors})
        self.uses.append((use, [id(tensor) for tensor in tensors]))

    def deliver(self) -> None:
        """Copy all of them, and do what is to be done in the order in which it was said."""
        here = dict(zip(self.wanted, on_host(list(self.wanted.values())), strict=True))
        for use, wanted in self.uses:
            use(*(here[one] for one in wanted))


def on_host(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The tensors on the host; from a GPU by one copy of their bytes."""
    if all(tensor.device.type == "cpu" for tensor in tensors):
        return list(tensors)
    # from wide to narrow, so that each begins where numbers of its kind may
    order = sorted(range(len(tensors)), key=lambda place: -tensors[place].element_size())
    sizes = [tensors[place].numel() * tensors[place].element_size() for place in order]
    flat = torch.cat([tensors[place].contiguous().flatten().view(torch.uint8) for place in order]).cpu()
    found = dict(zip(order, flat.split(sizes), strict=True))
    return [found[place].view(tensor.dtype).reshape(tensor.shape) for place, tensor in enumerate(tensors)]
