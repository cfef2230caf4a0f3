"""Which dimension of a layer's value the units are, decided from what made the value, and that dimension brought to the front.

The network runs once on one image, and every operation says of what it gives which dimensions come from units: those of a
convolution's or linear layer's outputs, followed through all that moves data. Nothing of the network is captured for that, so
that it holds for any control flow: what is looked at are torch's own operations (ATen), which are fewer than the ways to write
them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from unitlab.errors import UnitlabError

Dims = frozenset[int]
NOWHERE: Dims = frozenset()
# class and register tokens that may stand before the patches: DINOv2 has five
MOST_EXTRA_TOKENS = 8


def units_first(value: Tensor, dim: int) -> Tensor:
    """A site's value as (image, unit, …), which is how all of unitlab reads it; a view."""
    return value if dim == 1 else value.movedim(dim, 1)


def units_back(value: Tensor, dim: int) -> Tensor:
    """What `units_first` gives, as the network has it."""
    return value if dim == 1 else value.movedim(1, dim)


@dataclass(frozen=True)
class UnitLayout:
    """Where the units are in a layer's value for one image: ``dim`` of ``whole``, (image=1, …).

    For tokens, ``patches`` has rows and columns of the grid that the last of them are; those before them are class and register
    tokens.
    """

    dim: int
    whole: tuple[int, ...]
    patches: tuple[int, int] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the value with its units first, (image=1, unit, …)."""
        return (1, self.whole[self.dim], *self.whole[1 : self.dim], *self.whole[self.dim + 1 :])

    @property
    def text(self) -> str:
        """For people: "768 units along the last dimension of (image, row 7, column 7, unit)"."""
        last = self.dim == len(self.whole) - 1
        which = "the last dimension" if last and self.dim > 1 else f"dimension {self.dim}"
        positions = ["token"] if last else ["position"]
        names = {0: [], 1: positions, 2: ["row", "column"], 3: ["depth", "row", "column"]}.get(len(self.whole) - 2)
        names = [f"dimension {dim}" for dim in range(1, len(self.whole) - 1)] if names is None else names
        parts = [f"{name} {size}" for name, size in zip(names, self.shape[2:], strict=True)]
        parts.insert(self.dim - 1, "unit")
        grid = ""
        if self.patches is not None:
            rows, columns = self.patches
            extra = self.shape[2] - rows * columns
            grid = f", patches {rows} × {columns}" + (f" behind {extra} other token{'s'[: extra > 1]}" if extra else "")
        return f"{self.shape[1]} units along {which} of (image, {', '.join(parts)}){grid}"


CHANNELS_SECOND = {
    "convolution", "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training",
    "_batch_norm_no_update", "cudnn_batch_norm", "miopen_batch_norm", "native_group_norm",
}  # fmt: skip
FEATURES_LAST = {"linear", "_native_multi_head_attention", "_transformer_encoder_layer_fwd"}
PRODUCTS = {"mm": 0, "bmm": 0, "addmm": 1, "baddbmm": 1}  # where the two factors begin
# what keeps dimensions as they are, but for so many at the end
KEPT = {
    "max_pool2d_with_indices": 2, "avg_pool2d": 2, "_adaptive_avg_pool2d": 2, "adaptive_max_pool2d": 2, "avg_pool3d": 3,
    "max_pool3d_with_indices": 3, "_adaptive_avg_pool3d": 3, "adaptive_max_pool3d": 3, "upsample_nearest2d": 2,
    "upsample_bilinear2d": 2, "upsample_bicubic2d": 2, "_upsample_bicubic2d_aa": 2, "_upsample_bilinear2d_aa": 2,
    "reflection_pad2d": 2, "replication_pad2d": 2, "constant_pad_nd": 0, "pixel_shuffle": 2, "pixel_unshuffle": 2,
    "index_select": 0, "slice": 0, "split": 0, "split_with_sizes": 0, "cat": 0, "repeat": 0,
}  # fmt: skip


class UnitDimensions(TorchDispatchMode):
    """While it is active, keeps of every tensor that depends on ``image`` (image=1, …) which dimensions are of units.

    ``conv(x)`` has its units in dimension 1, and so has ``relu(conv(x))``; behind ``permute(0, 2, 3, 1)`` it is 3, behind
    ``flatten(2).transpose(1, 2)`` it is 2. Where units were spread over two dimensions (attention's heads), or where two
    values with units in different dimensions were added, it is not known, until the next convolution or linear layer.
    """

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self.known: Any = WeakIdKeyDictionary()
        self.known[image] = NOWHERE
        self.image = image
        self.grids: list[tuple[int, int]] = []  # rows and columns of the convolutions' maps

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = func(*args, **(kwargs or {}))
        used = [part for arg in args for part in (arg if isinstance(arg, list | tuple) else (arg,)) if isinstance(part, Tensor)]
        dependent = [tensor for tensor in used if tensor in self.known]
        if dependent:
            if _name(func) == "convolution" and given.dim() == 4:
                self.grids.append((given.shape[2], given.shape[3]))
            for value in given if isinstance(given, list | tuple) else (given,):
                if isinstance(value, Tensor):
                    self.known[value] = frozenset(self._of(func, args, dependent, value))
        return given

    def layout(self, value: Any, layer: str, given: int | None) -> UnitLayout:
        """Where a layer's value has its units.

        Raises
        ------
        UnitlabError
            It is no tensor with images in its first dimension; ``given`` is none of its dimensions; nothing tells.
        """
        if not isinstance(value, Tensor) or value.dim() < 2 or value.shape[0] != 1:
            what = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise UnitlabError(
                f"layer='{layer}' gives {what} for one image; it must give a tensor (image, …) with units in another dimension"
            )
        whole = tuple(value.shape)
        candidates = "; ".join(f"unit_dim={dim} ({whole[dim]} units)" for dim in range(1, len(whole)))
        if given is None:
            dims = frozenset({1}) if len(whole) == 2 else self.known.get(value, NOWHERE)
            if len(dims) != 1 or not 0 < min(dims) < len(whole):
                raise UnitlabError(
                    f"layer='{layer}' gives {whole} for one image, and it cannot be told which dimension its units are; "
                    f"give {candidates}"
                )
            (dim,) = dims
        elif not -len(whole) < given < len(whole) or given == 0 or isinstance(given, bool):
            raise UnitlabError(f"unit_dim={given}: layer '{layer}' gives {whole} for one image; valid: {candidates}")
        else:
            dim = given % len(whole)
        return UnitLayout(dim, whole, self._patches(whole[1]) if dim == 2 and len(whole) == 3 else None)

    def _patches(self, tokens: int) -> tuple[int, int] | None:
        """Rows and columns of the patches among tokens: a convolution's map, or a grid of the image's shape."""
        height, width = self.image.shape[-2:] if self.image.dim() == 4 else (1, 1)
        for rows, columns in dict.fromkeys(reversed(self.grids)):
            if rows * columns > 1 and 0 <= tokens - rows * columns <= MOST_EXTRA_TOKENS:
                return rows, columns
        for extra in range(min(MOST_EXTRA_TOKENS, tokens // 5) + 1):
            rows = round(math.sqrt((tokens - extra) * height / width))
            if rows and rows * width == round((tokens - extra) / rows) * height and (tokens - extra) % rows == 0:
                return rows, (tokens - extra) // rows
        return None

    # -- rules ------------------------------------------------------------------------------------------------------
    def _of(self, func: Any, args: Sequence[Any], dependent: list[Tensor], value: Tensor) -> Iterable[int]:
        """Dimensions of units of what an operation gives."""
        name = _name(func)
        last, first = value.dim() - 1, dependent[0]
        if name in CHANNELS_SECOND:
            return {1}
        if name in FEATURES_LAST or (name == "native_layer_norm" and len(args[1]) == 1):
            return {last}
        if name in PRODUCTS:
            return self._product(args[PRODUCTS[name]], args[PRODUCTS[name] + 1], last)
        if name.startswith("_scaled_dot_product"):
            return self.known.get(args[2], NOWHERE)
        if name in MOVED:
            dims = self._together(dependent, first) if name == "stack" else self.known[first]
            return MOVED[name](dims, tuple(first.shape), args[1:], value)
        if name in KEPT:
            dims = self._together(dependent, value) if name == "cat" else self.known[first]
            return dims if value.dim() == first.dim() and all(dim <= last - KEPT[name] for dim in dims) else NOWHERE
        # activations, sums, norms, and whatever else leaves the shape as it is
        return self._together(dependent, value) if torch.Tag.pointwise in func.tags or value.shape == first.shape else NOWHERE

    def _together(self, values: list[Tensor], result: Tensor) -> Dims:
        """Of what is broadcast to ``result``: where all that know their units have them in the same dimension."""
        found = {
            frozenset(dim + result.dim() - value.dim() for dim in self.known[value]) for value in values if self.known[value]
        }
        return found.pop() if len(found) == 1 else NOWHERE

    def _product(self, a: Tensor, b: Tensor, last: int) -> Iterable[int]:
        """Of a matrix product: a constant on the right is a linear layer's weights."""
        if b not in self.known:
            return {last}
        left, right = self.known.get(a, NOWHERE), self.known[b]
        return NOWHERE if last in left or last - 1 in right else left | right


def _name(func: Any) -> str:
    """Of an operation, in place or not."""
    name = str(func._schema.name.partition("::")[2])
    return name[:-1] if name.endswith("_") and not name.endswith("__") else name


def _axes(given: Any, rank: int) -> set[int]:
    return {axis % rank for axis in ([given] if isinstance(given, int) else given or ())}


def _regrouped(dims: Dims, old: tuple[int, ...], _: Any, value: Tensor) -> Dims:
    """Behind a view: a group of dimensions that becomes another is of units where all of it was."""
    new = tuple(value.shape)
    if 0 in new:
        return NOWHERE
    if all(old[dim] == 1 for dim in dims):  # a layer of one unit
        return dims if all(old[: dim + 1] == new[: dim + 1] for dim in dims) else NOWHERE
    left, right = ([dim for dim, size in enumerate(shape) if size > 1] for shape in (old, new))
    found: set[int] = set()
    while left and right:
        group, becomes = [left.pop(0)], [right.pop(0)]
        while (before := math.prod(old[dim] for dim in group)) != (after := math.prod(new[dim] for dim in becomes)):
            (group if before < after else becomes).append((left if before < after else right).pop(0))
        here = dims.intersection(group)
        if here and not dims.issuperset(group):
            return NOWHERE
        found.update(becomes if here else ())
    return frozenset(found)


def _without(axes: set[int], dims: Dims, rank: int) -> Dims:
    """Behind the loss of some dimensions."""
    left = [dim for dim in range(rank) if dim not in axes]
    return NOWHERE if axes & dims else frozenset(left.index(dim) for dim in dims)


def _reduced(dims: Dims, old: tuple[int, ...], rest: Sequence[Any], value: Tensor) -> Dims:
    given = next((arg for arg in rest if isinstance(arg, int | list | tuple) and not isinstance(arg, bool)), None)
    axes = set(range(len(old))) if given is None else _axes(given, len(old))
    if value.dim() == len(old):
        return NOWHERE if axes & dims else dims
    return _without(axes, dims, len(old))


def _squeezed(dims: Dims, old: tuple[int, ...], rest: Sequence[Any], value: Tensor) -> Dims:
    axes = _axes(rest[0], len(old)) if rest else set(range(len(old)))
    return _without({axis for axis in axes if old[axis] == 1}, dims, len(old))


def _selected(dims: Dims, old: tuple[int, ...], rest: Sequence[Any], value: Tensor) -> Dims:
    return _without(_axes(rest[0] if rest else 0, len(old)), dims, len(old))


def _expanded(dims: Dims, old: tuple[int, ...], rest: Sequence[Any], value: Tensor) -> Dims:
    return frozenset(dim + value.dim() - len(old) for dim in dims)


def _unsqueezed(dims: Dims, old: tuple[int, ...], rest: Sequence[Any], value: Tensor) -> Dims:
    new = (rest[0] if rest else 0) % value.dim()
    return frozenset(dim + (dim >= new) for dim in dims)


def _permuted(dims: Dims, old: tuple[int, ...], rest: Sequence[Any], value: Tensor) -> Dims:
    return frozenset(place for place, source in enumerate(rest[0]) if source % len(old) in dims)


def _transposed(dims: Dims, old: tuple[int, ...], rest: Sequence[Any], value: Tensor) -> Dims:
    a, b = (axis % len(old) for axis in (rest or (0, 1)))
    return frozenset({a: b, b: a}.get(dim, dim) for dim in dims)


MOVED: Mapping[str, Callable[[Dims, tuple[int, ...], Sequence[Any], Tensor], Dims]] = {
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "_reshape_alias", "_reshape_copy", "view_copy"), _regrouped),
    **dict.fromkeys(("mean", "sum", "amax", "amin", "max", "min", "var", "std", "var_mean", "linalg_vector_norm"), _reduced),
    **dict.fromkeys(("select", "unbind"), _selected),
    "expand": _expanded,
    "logsumexp": _reduced,
    "permute": _permuted,
    "squeeze": _squeezed,
    "stack": _unsqueezed,
    "t": _transposed,
    "transpose": _transposed,
    "unsqueeze": _unsqueezed,
}
