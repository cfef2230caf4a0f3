"""A CUDA device that is none: finds meetings of host and device, and counts waits, uploads and launches, on a CPU.

A tensor "on the device" wraps a CPU tensor that holds its values, so that code whose course depends on values (nonzero, item,
bool) runs as it would. Python is told cuda:0, C++ sees a CPU tensor: neither driver nor device guard is asked for, and autograd
works. A dispatch mode sees every ATen operation, also those that C++ and autograd call, computes it on the CPU and notes what
CUDA would have done; a function mode answers what C++ would answer wrongly (``.cpu()``, ``.to()``, ``.tolist()``).

What is noted, each with the line of unitlab that asked for it:

- ``violation``: device and host tensors of one dimension or more meet (copies, and host indices, are allowed, as on CUDA);
  numpy() of a device tensor; an operation without a CUDA kernel, by the dispatcher of a CUDA build; pinned memory that is read
  or written while it is copied; a tensor of another stream that this one does not wait for, or that is not told of it;
- ``wait``: the host waits for a result: item, bool, tolist, a blocking copy to the host, nonzero, boolean masks, synchronize
  of what is not known to be done: what a stream was given before something that has been waited for is;
- ``upload``: a copy from pageable host memory, which waits for the stream, too; indices from the host are such copies;
- ``async copy``: from or into pinned memory, without a wait;
- ``launch``: a kernel or more (views and metadata are none);
- ``bfloat16 product``: a convolution or matrix product of bfloat16 tensors;
- ``tf32 product``: one of float32 tensors where torch is set to TF32, whose operands are then rounded as TF32 has them;
- ``unordered sum``: floating-point numbers are added by atomic operations, in no fixed order: a repetition may differ.

Copies into pinned memory arrive when it is known that they have.

Kernels are not CUDA's: dtypes that a CUDA kernel refuses, and numerical differences, stay unseen.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from threading import RLock
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

CUDA, HOST = torch.device("cuda", 0), torch.device("cpu")

# the host reads a result, or how large one is
WAITING = {
    "_local_scalar_dense", "item", "equal", "nonzero", "masked_select", "_unique", "_unique2", "unique_dim",
    "unique_consecutive", "bincount", "is_nonzero", "_linalg_eigh", "linalg_lstsq", "histc", "multinomial",
}  # fmt: skip
NO_KERNEL = {
    "empty", "empty_strided", "empty_like", "new_empty", "new_empty_strided", "detach", "alias", "lift", "lift_fresh",
    "_unsafe_view", "_reshape_alias", "resize_", "set_", "is_pinned", "is_same_size",
}  # fmt: skip
PRODUCTS = {"convolution", "addmm", "mm", "bmm", "baddbmm"}
# by the list in torch.use_deterministic_algorithms
UNORDERED = {
    "index_add", "index_add_", "scatter_add", "scatter_add_", "scatter_reduce", "cumsum", "put_", "histc",
    "_adaptive_avg_pool2d_backward", "adaptive_max_pool2d_backward", "max_pool2d_with_indices_backward",
    "avg_pool3d_backward", "embedding_dense_backward", "upsample_bilinear2d_backward", "upsample_nearest2d_backward",
    "reflection_pad2d_backward", "replication_pad2d_backward", "grid_sampler_2d_backward",
}  # fmt: skip
Clock = Counter["Stream"]  # how much of each stream's work is done
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}


@dataclass(frozen=True)
class Event:
    """What CUDA would have done, the line that asked for it, and the phase."""

    kind: str
    operation: str
    where: str
    phase: str


class OnDevice(Tensor):
    """A tensor that says that it is on cuda:0; ``inner`` holds the values."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> OnDevice:
        made = Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype, device=HOST
        )
        made.inner = inner
        return made

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert _current is not None, "a tensor of the make-believe device is used when there is none"
        return _current.operation(func, args, kwargs or {})


_current: MakeBelieveGPU | None = None


@dataclass
class MakeBelieveGPU:
    """What happened on the device."""

    events: list[Event] = field(default_factory=list)
    entered: Counter[str] = field(default_factory=Counter)
    phases: list[str] = field(default_factory=lambda: ["elsewhere"])
    # by address: pinned memory, what is copied into it or from it, when, and on which stream device memory was made
    pinned: dict[int, Tensor] = field(default_factory=dict)
    arriving: dict[int, tuple[Clock, Tensor, Tensor]] = field(default_factory=dict)
    leaving: dict[int, Clock] = field(default_factory=dict)
    made: dict[int, tuple[Stream, int, set[Stream]]] = field(default_factory=dict)
    done: Clock = field(default_factory=Counter)  # as the host knows
    streams: list[Stream] = field(default_factory=lambda: [Stream()])  # the last one is current
    asked_for_host: bool = False  # by Python: C++, as in autograd, takes the device that it believes a tensor to be on
    kernels: dict[str, bool] = field(default_factory=dict)
    lock: Any = field(default_factory=RLock)

    def of(self, kind: str, phase: str | None = None) -> Counter[tuple[str, str]]:
        """(operation, where) → how often, of a kind and phase."""
        return Counter((e.operation, e.where) for e in self.events if e.kind == kind and phase in (None, e.phase))

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self.entered[name] += 1
        self.phases.append(name)
        try:
            yield
        finally:
            self.phases.pop()

    def note(self, kind: str, operation: str, waited_for: Clock | None = None) -> None:
        frame: Any = sys._getframe(1)
        while frame is not None and "/unitlab/" not in frame.f_code.co_filename:
            frame = frame.f_back
        where = "outside" if frame is None else f"{frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_lineno}"
        self.events.append(Event(kind, operation, where, self.phases[-1]))
        if kind == "wait":
            self.know(self.streams[-1].clock if waited_for is None else waited_for)

    def know(self, clock: Clock) -> None:
        """The host has learned that so much is done."""
        with self.lock:  # another thread must find the values where it finds that they are there
            self.done |= clock
            for address, (when, target, values) in list(self.arriving.items()):
                if when <= self.done:
                    del self.arriving[address]
                    target.copy_(values)

    def wait_for(self, clock: Clock, what: str) -> None:
        with self.lock:
            if not clock <= self.done:
                self.note("wait", what, clock)

    def check_host(self, tensor: Tensor, *, written: bool = False) -> None:
        """Whether the host may read or write a tensor of its own."""
        address = _address(tensor)
        if address in self.arriving:
            self.note("violation", "pinned memory is used before a copy into it is known to be done")
        if written and not self.leaving.get(address, Counter()) <= self.done:
            self.note("violation", "pinned memory is written before a copy from it is known to be done")

    def operation(self, func: Any, args: Any, kwargs: Any) -> Any:
        """One operation of ATen: what CUDA would do is noted, the values are computed here."""
        name = func.overloadpacket.__name__
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        on = [x for x in given if isinstance(x, OnDevice)]
        device = None if kwargs.get("device") is None else torch.device(kwargs["device"])
        if not on and (device is None or device.type != "cuda"):
            if self.arriving or self.leaving:
                for argument, x in zip(func._schema.arguments, args, strict=False):
                    alias = argument.alias_info
                    for tensor in tree_leaves(x):
                        if isinstance(tensor, Tensor) and torch.Tag.inplace_view not in func.tags:
                            self.check_host(tensor, written=alias is not None and alias.is_write)
            out = func(*args, **{**kwargs, **({"pin_memory": False} if kwargs.get("pin_memory") else {})})
            return self.pin(out) if kwargs.get("pin_memory") else out
        self._check_streams(on)
        if name in ("_to_copy", "_pin_memory", "copy_"):
            return self._copied(name, func, args, kwargs, device)
        self._check(name, func, args, on, [x for x in given if not isinstance(x, OnDevice)])
        inner_args, inner_kwargs = tree_map(_inner, (args, kwargs))
        if name in PRODUCTS and _in_tf32(name) and any(x.inner.dtype == torch.float32 for x in on):
            self.note("tf32 product", name)
            inner_args = tree_map(_rounded_to_tf32, inner_args)
        if device is not None and device.type == "cpu" and self.asked_for_host:
            return func(*inner_args, **inner_kwargs)
        out = func(*inner_args, **inner_kwargs)
        if torch.Tag.inplace_view in func.tags:
            _reshape_wrapper(func, args, kwargs)
        self._launch(name, func)
        known = {id(x.inner): x for x in on}
        used = {_address(x) for x in on}
        return tree_map(lambda x: known[id(x)] if id(x) in known else self._new(x, used) if isinstance(x, Tensor) else x, out)

    def _new(self, inner: Tensor, used: set[int] = frozenset()) -> OnDevice:  # type: ignore[assignment]
        """A tensor that an operation has made from those at ``used`` addresses, or a view of one of them."""
        if (address := _address(inner)) not in used:
            stream = self.streams[-1]
            self.made[address] = (stream, stream.clock[stream], {stream})
        return OnDevice(inner)

    def _check_streams(self, on: list[OnDevice]) -> None:
        """Whether the current stream may use these; and it has got more to do."""
        current = self.streams[-1]
        current.clock[current] += 1
        for x in on:
            stream, when, told = self.made.get(_address(x), (current, 0, {current}))
            if current.clock[stream] < when:
                self.note("violation", "a stream uses what another one has made, and does not wait for it")
            if current not in told:
                self.note("violation", "a stream uses what another one has made, and record_stream was not called")

    def _check(self, name: str, func: Any, args: Any, on: list[OnDevice], off: list[Tensor]) -> None:
        """Whether CUDA would take these, has the operation, and would make the host wait."""
        pointwise = torch.Tag.pointwise in func.tags or name in ("fill_", "where", "masked_fill", "masked_fill_", *INDEXING)
        if name in INDEXING:
            indices = [x for x in args[1] if isinstance(x, Tensor)]
            if not isinstance(args[0], OnDevice):
                self.note("violation", f"{name}: a host tensor indexed by a device tensor")
            for index in indices:
                if not isinstance(index, OnDevice):
                    self.note("upload", f"{name}: index from the host")
            # a mask is turned into indices, whose number the host must know; one number is written without
            one_number = "put" in name and args[2].numel() == 1 and not (len(args) > 3 and args[3])
            if any(x.dtype == torch.bool for x in indices) and not one_number:
                self.note("wait", f"{name} by a boolean mask")
            off = [x for x in args[2:3] if isinstance(x, Tensor) and not isinstance(x, OnDevice)]
        elif name in ("lift_fresh", "lift"):
            off = []
        meeting = [x for x in off if x.dim() > 0 or not pointwise]
        if on and meeting:
            self.note("violation", f"{name}: {tuple(on[0].shape)} on the device and {tuple(meeting[0].shape)} on the host")
        by_tensor = name == "repeat_interleave" and isinstance(args[0], OnDevice)
        if name in WAITING or by_tensor:
            self.note("wait", name)
        floating = [x for x in on if x.inner.is_floating_point()]
        accumulates = "put" in name and len(args) > 3 and bool(args[3])
        if floating and (name in UNORDERED or accumulates):
            self.note("unordered sum", name)
        if name in PRODUCTS and any(x.inner.dtype == torch.bfloat16 for x in floating):
            self.note("bfloat16 product", name)
        if torch.version.cuda is not None:
            full = func.name()
            if full not in self.kernels:
                self.kernels[full] = torch._C._dispatch_has_computed_kernel_for_dispatch_key(full, "CUDA")
            if not self.kernels[full]:
                self.note("violation", f"{full} has no CUDA kernel")

    def _copied(self, name: str, func: Any, args: Any, kwargs: Any, device: torch.device | None) -> Any:
        target, source = (args[0], args[1]) if name == "copy_" else (None, args[0])
        asynchronous = bool(kwargs.get("non_blocking") or (target is not None and len(args) > 2 and args[2]))
        to_device = isinstance(target, OnDevice) if target is not None else device is None or device.type == "cuda"
        inner_args, inner_kwargs = tree_map(_inner, (args, kwargs))
        inner_kwargs.pop("pin_memory", None)
        later = asynchronous and not to_device and target is not None and self.is_pinned(target)
        for tensor in (source, target):
            if isinstance(tensor, Tensor) and not isinstance(tensor, OnDevice):
                self.check_host(tensor, written=tensor is target)
        out = None if later else func(*inner_args, **inner_kwargs)
        if isinstance(source, OnDevice) != to_device:
            host = source if to_device else out if target is None else target
            if asynchronous and self.is_pinned(host):
                self.note("async copy", "to the device" if to_device else "to the host")
                if later:
                    self.arriving[_address(host)] = Counter(self.streams[-1].clock), host, inner_args[1].clone()
                else:
                    self.leaving[_address(host)] = Counter(self.streams[-1].clock)
            elif not to_device:
                self.note("wait", "copy to the host")
            elif source.dim() or target is None:
                self.note("upload", "pageable or blocking")
        self._launch(name, func)
        if target is not None:
            return target
        return self._new(out, {_address(source)} if isinstance(source, OnDevice) else set()) if to_device else out

    def _launch(self, name: str, func: Any) -> None:
        returns = func._schema.returns
        view = bool(returns) and returns[0].alias_info is not None and not returns[0].alias_info.is_write
        if not view and name not in NO_KERNEL:
            self.note("launch", name)

    def pin(self, tensor: Tensor) -> Tensor:
        self.pinned[_address(tensor)] = tensor  # held, so that nothing else gets its address
        return tensor

    def is_pinned(self, tensor: Tensor) -> bool:
        return not isinstance(tensor, OnDevice) and _address(tensor) in self.pinned


def _address(tensor: Tensor) -> int:
    with torch._C.DisableTorchFunction():
        return int((tensor.inner if isinstance(tensor, OnDevice) else tensor).untyped_storage().data_ptr())


class _Dispatch(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert _current is not None
        return _current.operation(func, args, kwargs or {})


class _Functions(TorchFunctionMode):
    """Answers that depend on where Python believes a tensor to be."""

    def __init__(self, gpu: MakeBelieveGPU) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, first = dict(kwargs or {}), args[0] if args else None
        on = isinstance(first, OnDevice)
        # properties are made anew each time that they are looked up
        for attribute, answer in (("device", CUDA if on else HOST), ("is_cuda", on), ("is_cpu", not on)):
            if func == getattr(Tensor, attribute).__get__:
                return answer
        if func is Tensor.get_device:
            return 0 if on else -1
        if func is Tensor.pin_memory:
            return first if self.gpu.is_pinned(first) else self.gpu.pin(first.clone())
        if func is Tensor.is_pinned:
            return self.gpu.is_pinned(first)
        if on and func is Tensor.untyped_storage:
            return first.inner.untyped_storage()
        if on and func in (Tensor.numpy, Tensor.__array__):
            self.gpu.note("violation", "numpy() of a device tensor")
            return first.inner.detach().numpy()
        if on and func is Tensor.tolist:
            self.gpu.note("wait", "tolist")
            return first.inner.tolist()
        by_indices = func is Tensor.__setitem__ and any(isinstance(x, Tensor) for x in tree_leaves(args[1]))
        if on and by_indices and not isinstance(args[2], Tensor):
            self.gpu.note("wait", "a number written by indices")  # as an H100 counted
        if func in (Tensor.numpy, Tensor.__array__, Tensor.tolist):
            self.gpu.check_host(first)
        if func in (Tensor.cpu, Tensor.cuda):
            place = HOST if func is Tensor.cpu else CUDA
            return _moved(first, place, None, kwargs.get("non_blocking", False), False, kwargs.get("memory_format"))
        if func is Tensor.to:
            return _to(*args, **kwargs)
        if "device" in kwargs:
            kwargs["device"] = _numbered(kwargs["device"])
        if kwargs.get("pin_memory") and not on:
            return self.gpu.pin(func(*args, **{**kwargs, "pin_memory": False}))
        before = self.gpu.asked_for_host
        self.gpu.asked_for_host = kwargs.get("device") is not None and torch.device(kwargs["device"]) == HOST
        try:
            return func(*args, **kwargs)
        finally:
            self.gpu.asked_for_host = before


def _inner(x: Any) -> Any:
    if isinstance(x, torch.device) and x.type == "cuda":
        return HOST
    return x.inner if isinstance(x, OnDevice) else x


def _in_tf32(name: str) -> bool:
    backends: Any = torch.backends
    return (backends.cudnn.conv if name == "convolution" else backends.cuda.matmul).fp32_precision == "tf32"


def _rounded_to_tf32(x: Any) -> Any:
    """Float32 to 10 bits of mantissa, to the nearest."""
    if not isinstance(x, Tensor) or x.dtype != torch.float32:
        return x
    return (x.detach().view(torch.int32) + 0x1000).bitwise_and_(-0x2000).view(torch.float32)


def _numbered(x: Any) -> Any:
    """cuda as cuda:0, which needs no driver to be looked up."""
    x = torch.device(x) if isinstance(x, str) else x
    return CUDA if isinstance(x, torch.device) and x.type == "cuda" else x


def _to(tensor: Tensor, *given: Any, **options: Any) -> Tensor:
    place, dtype, other, rest = options.get("device"), options.get("dtype"), options.get("other"), list(given)
    if rest and isinstance(rest[0], Tensor):
        other = rest.pop(0)
    elif rest and isinstance(rest[0], torch.dtype):
        dtype = rest.pop(0)
    elif rest:
        place = rest.pop(0)
        if rest and (rest[0] is None or isinstance(rest[0], torch.dtype)):
            dtype = rest.pop(0)
    if other is not None:
        place, dtype = (CUDA if isinstance(other, OnDevice) else HOST), other.dtype
    asynchronous = bool(rest[0]) if rest else bool(options.get("non_blocking", False))
    copy = bool(rest[1]) if len(rest) > 1 else bool(options.get("copy", False))
    return _moved(tensor, place, dtype, asynchronous, copy, options.get("memory_format"))


def _moved(tensor: Tensor, place: Any, dtype: Any, asynchronous: bool, copy: bool, memory_format: Any) -> Tensor:
    here = CUDA if isinstance(tensor, OnDevice) else HOST
    place, dtype = here if place is None else _numbered(place), dtype or tensor.dtype
    formatted = memory_format in (None, torch.preserve_format) or tensor.is_contiguous(memory_format=memory_format)
    if (place, dtype) == (here, tensor.dtype) and not copy and formatted:
        return tensor
    kwargs = {} if memory_format is None else {"memory_format": memory_format}
    return torch.ops.aten._to_copy(tensor, dtype=dtype, device=place, non_blocking=asynchronous, **kwargs)


def _reshape_wrapper(func: Any, args: Any, kwargs: Any) -> None:
    """Give the wrapper, too, the shape that an operation in place has given the tensor in it."""
    with torch.utils._mode_utils.no_dispatch():
        before = torch._C._meta_in_tls_dispatch_include()
        torch._C._set_meta_in_tls_dispatch_include(True)
        try:
            func(*args, **kwargs)
        finally:
            torch._C._set_meta_in_tls_dispatch_include(before)


class Stream:
    """Work that is done in order; ``clock`` says how much of each stream's is done before what it is given next."""

    cuda_stream, device = 0, CUDA

    def __init__(self, *_: Any, **__: Any) -> None:
        self.clock: Clock = Counter()

    def __enter__(self) -> Stream:
        _now().streams.append(self)
        return self

    def __exit__(self, *_: Any) -> None:
        _now().streams.pop()

    def synchronize(self) -> None:
        _now().wait_for(self.clock, "synchronize a stream")

    def wait_stream(self, other: Stream) -> None:
        self.clock |= other.clock

    def wait_event(self, event: CudaEvent) -> None:
        self.clock |= event.clock

    def record_event(self, event: CudaEvent | None = None) -> CudaEvent:
        event = event or CudaEvent()
        event.record(self)
        return event


class CudaEvent:
    """What had been given to a stream when it was recorded."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.clock: Clock = Counter()

    def record(self, stream: Stream | None = None) -> None:
        self.clock = Counter((stream or _now().streams[-1]).clock)

    def wait(self, stream: Stream | None = None) -> None:
        (stream or _now().streams[-1]).wait_event(self)

    def query(self) -> bool:
        return self.clock <= _now().done

    def synchronize(self) -> None:
        _now().wait_for(self.clock, "synchronize an event")


def _now() -> MakeBelieveGPU:
    assert _current is not None
    return _current


def _synchronize(*_: Any) -> None:
    if _current is not None:
        _current.note("wait", "synchronize")


def _record_stream(tensor: Tensor, stream: Stream) -> None:
    if (found := _now().made.get(_address(tensor))) is not None:
        found[2].add(stream)


@contextmanager
def make_believe_gpu(phases: list[tuple[Any, str, str]] | None = None) -> Iterator[MakeBelieveGPU]:
    """Within the block torch shows one CUDA device; ``phases``: (owner, name of a function, what its calls are called)."""
    global _current
    gpu = MakeBelieveGPU()

    def under(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            with gpu.phase(name):
                return function(*args, **kwargs)

        return called

    patched: dict[str, Any] = {
        "is_available": lambda: True, "device_count": lambda: 1, "current_device": lambda: 0, "is_initialized": lambda: True,
        "_lazy_init": lambda: None, "synchronize": _synchronize, "get_device_name": lambda *_: "make-believe",
        "mem_get_info": lambda *_: (80 << 30, 80 << 30), "Stream": Stream, "Event": CudaEvent,
        "current_stream": lambda *_: gpu.streams[-1], "default_stream": lambda *_: gpu.streams[0],
        "stream": lambda stream: stream or nullcontext(),
        "set_device": lambda *_: None, "empty_cache": lambda: None, "get_device_capability": lambda *_: (9, 0),
        "is_bf16_supported": lambda *_, **__: True,
    }  # fmt: skip
    lifted, swapped = torch._C._only_lift_cpu_tensors(), torch.__future__.get_swap_module_params_on_conversion()
    # Module.to() would else take the wrapper's shape without its values
    torch.__future__.set_swap_module_params_on_conversion(True)
    torch._C._set_only_lift_cpu_tensors(True)
    _current = gpu
    owned = [mock.patch.object(owner, name, under(phase, getattr(owner, name))) for owner, name, phase in phases or []]
    owned.append(mock.patch.object(Tensor, "record_stream", _record_stream))
    for patch in owned:
        patch.start()
    try:
        with mock.patch.multiple(torch.cuda, **patched), _Functions(gpu), _Dispatch():
            yield gpu
    finally:
        for patch in owned:
            patch.stop()
        _current = None
        torch._C._set_only_lift_cpu_tensors(lifted)
        torch.__future__.set_swap_module_params_on_conversion(swapped)
