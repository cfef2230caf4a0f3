"""Between host and device without waits: results come in one copy that is read later, and what goes there is pinned.

What must know results to go on is done in steps, between which a GPU may be given other work: two batches in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

T = TypeVar("T")
Steps = Generator[None, None, T]  # a step ends where something was asked of a GPU that the next one needs


class HostCopies:
    """Tensors that are wanted on the host, and what is done with them there: then, then, …, send, and later deliver.

    What is on the host already is used at once. From a GPU ``send`` asks for a copy into pinned memory and does not wait for
    it; ``deliver`` does, which is no waiting where the host has read a result since of what it asked for after the copy.
    """

    def __init__(self) -> None:
        self.wanted: dict[int, Tensor] = {}
        self.uses: list[tuple[Callable[..., object], list[int]]] = []
        # bytes that come, when they are there, and of which tensors they are: key, dtype, shape, bytes
        self.sent: tuple[Tensor, Any, list[tuple[int, torch.dtype, torch.Size, int]]] | None = None

    def then(self, use: Callable[..., object], *tensors: Tensor) -> None:
        """Call ``use`` with these tensors once they are on the host; what several want is copied once."""
        if all(tensor.device.type == "cpu" for tensor in tensors):
            use(*tensors)
            return
        self.wanted.update({id(tensor): tensor for tensor in tensors})
        self.uses.append((use, [id(tensor) for tensor in tensors]))

    def send(self) -> None:
        """Have all of them copied, as one piece of bytes."""
        if not self.wanted:
            return
        # from wide to narrow, so that each begins where numbers of its kind may
        tensors = dict(sorted(self.wanted.items(), key=lambda item: -item[1].element_size()))
        flat = torch.cat([tensor.contiguous().flatten().view(torch.uint8) for tensor in tensors.values()])
        pinned = torch.empty(len(flat), dtype=torch.uint8, pin_memory=True)
        pinned.copy_(flat, non_blocking=True)
        layouts = [(key, tensor.dtype, tensor.shape, tensor.nbytes) for key, tensor in tensors.items()]
        self.sent, self.wanted = (pinned, torch.cuda.current_stream(flat.device).record_event(), layouts), {}

    def deliver(self) -> None:
        """Do what is to be done, in the order in which it was said."""
        self.send()
        if self.sent is None:
            return
        pinned, copied, layouts = self.sent
        copied.synchronize()
        # results are kept for long, and pinned memory is scarce
        parts = pinned.clone().split([size for *_, size in layouts])
        here = {key: part.view(dtype).reshape(shape) for part, (key, dtype, shape, _) in zip(parts, layouts, strict=True)}
        uses, self.uses, self.sent = self.uses, [], None
        for use, wanted in uses:
            use(*(here[one] for one in wanted))


def on_host(tensors: Sequence[Tensor]) -> Steps[list[Tensor]]:
    """The tensors on the host, one step later; from a GPU by one copy of their bytes."""
    found: list[Tensor] = []
    host = HostCopies()
    host.then(lambda *copies: found.extend(copies), *tensors)
    host.send()
    if host.sent is not None:
        yield
    host.deliver()
    return found


def finished(steps: Steps[T]) -> T:
    """What steps give, one after the other."""
    try:
        while True:
            next(steps)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]


class InTurn:
    """Steps that are done in turn with others: what goes wrong in one is said when they are finished."""

    def __init__(self, steps: Steps[None]) -> None:
        self._steps = steps
        self._running = True
        self._error: Exception | None = None

    @property
    def done(self) -> bool:
        """Whether none is left."""
        return not self._running

    def step(self) -> bool:
        """Do one, where there is one; whether there is another."""
        if self._running:
            try:
                next(self._steps)
            except StopIteration:
                self._running = False
            except Exception as error:
                self._running, self._error = False, error
        return self._running

    def finish(self, meanwhile: InTurn | None = None) -> None:
        """Do those that are left, in turn with those of another."""
        while self.step():
            if meanwhile is not None:
                meanwhile.step()
        if self._error is not None:
            raise self._error


def on_device(values: Tensor | np.ndarray, device: torch.device) -> Tensor:
    """What the host has, on the device; to a GPU from pinned memory, without a wait."""
    here: Any = torch.as_tensor(values)
    return here.pin_memory().to(device, non_blocking=True) if device.type == "cuda" and not here.is_cuda else here.to(device)
