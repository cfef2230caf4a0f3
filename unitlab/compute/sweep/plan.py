"""What a sweep is going to do: sites, units, engines, batches, shards and the fingerprint of all that."""

from __future__ import annotations

import hashlib
import logging
import operator
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.fx
from torch import Tensor, nn

from unitlab.compute.engine.ablation import ABLATIONS, Replacement, replacement_of
from unitlab.compute.engine.directions import Basis, RotatedHookEngine, RotatedSuffixEngine, basis_of
from unitlab.compute.engine.hooks import HookEngine
from unitlab.compute.engine.layers import Site, layer_names
from unitlab.compute.engine.network import Network
from unitlab.compute.engine.suffix import SuffixEngine
from unitlab.compute.engine.torch_state import choose_device
from unitlab.compute.images.source import ImageSource
from unitlab.errors import UnitlabError, check_seed

log = logging.getLogger("unitlab")

PRECISIONS = ("float32", "bfloat16")
SHARD_IMAGES = 512
MOST_BATCH = 128
SAMPLED_IMAGES = 8
PRINCIPAL_AXES_BATCH = 32


@dataclass
class SweepPlan:
    """Everything decided before the first image: the same plan gives the same bytes."""

    network: Network
    sites: list[Site]
    shapes: list[tuple[int, ...]]
    units: list[list[int]]
    engines: list[SuffixEngine | HookEngine]
    ablation: str
    labels: str
    precision: str
    seed: int
    batch_size: int
    shard_bounds: list[tuple[int, int]]
    one_layer: bool
    memory: int
    categories: list[str]
    bases: list[Basis | None]
    fingerprint: dict[str, str] = field(default_factory=dict)

    @property
    def first_order(self) -> bool:
        """Whether gradients can be had."""
        return self.network.graph is not None

    @property
    def needed(self) -> set[torch.fx.Node]:
        """Graph nodes whose values the engines read."""
        return {node for engine in self.engines if isinstance(engine, SuffixEngine) for node in engine.needed}

    @property
    def prediction_dtype(self) -> type[np.signedinteger[Any]]:
        return np.int16 if self.network.categories <= np.iinfo(np.int16).max else np.int32

    @property
    def layers_text(self) -> str:
        """The layers' names, or how many there are."""
        names = ", ".join(site.layer for site in self.sites)
        return names if len(names) < 40 else f"{len(self.sites)} layers"

    @property
    def description(self) -> str:
        return f"{self.ablation_name} ablation of {self.layers_text}"

    @property
    def ablation_name(self) -> str:
        """What the study calls the ablation: its kind, or the basis whose directions are ablated."""
        basis = self.bases[0]
        if basis is None:
            return self.ablation
        return basis.name if self.ablation == "zero" else f"{basis.name}-{self.ablation}"

    def images_in(self, shards: Iterable[int]) -> int:
        """How many images some shards have."""
        return sum(self.shard_bounds[index][1] - self.shard_bounds[index][0] for index in shards)

    def means(self, sums: Iterable[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """Means of the sites' units, from the sums of all shards in their order."""
        total: dict[str, np.ndarray] = {}
        for shard in sums:
            total = {name: total[name] + part if name in total else part for name, part in shard.items()}
        return {site.layer: total[site.layer] / total[f"{site.layer}/count"] for site in self.sites}

    def replacements(self, values: Mapping[str, Any] | None, images: int) -> list[Replacement]:
        """What the sites' units are replaced by, from their means or donors' values; None for zero."""
        return [
            replacement_of(self.ablation, shape, images, self.seed, None if values is None else np.asarray(values[site.layer]))
            for site, shape in zip(self.sites, self.shapes, strict=True)
        ]

    def layer_fingerprint(self, site: Site) -> dict[str, str]:
        """What a result of one layer depends on, beyond network and images."""
        number = self.sites.index(site)
        units, basis = self.units[number], self.bases[number]
        return {
            **({} if basis is None else {"basis": basis.fingerprint}),
            "site": site.text,
            "units": hashlib.sha256(repr(units).encode()).hexdigest(),
            "precision": self.precision,
            "seed": str(self.seed) if self.ablation == "resample" else "none",
        }


def plan_sweep(
    model: nn.Module,
    source: ImageSource,
    layer: str | Sequence[str],
    *,
    units: Sequence[int] | None,
    ablation: str,
    labels: str,
    device: str | torch.device | None,
    precision: str,
    batch_size: int | None,
    memory: str | int,
    seed: int,
    basis: Any = None,
) -> SweepPlan:
    """Check what is asked for and decide how to do it.

    Raises
    ------
    UnitlabError
        As `unitlab.ablate` does for bad input.
    """
    for name, value, valid in (
        ("ablation", ablation, ABLATIONS), ("labels", labels, ("given", "predicted")), ("precision", precision, PRECISIONS),
    ):  # fmt: skip
        if value not in valid:
            raise UnitlabError(f"{name}={value!r} is not known; valid: {', '.join(map(repr, valid))}")
    if ablation == "resample" and len(source) < 2:
        raise UnitlabError("ablation='resample' takes a unit's map from another image; give two images or more")
    if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
        raise UnitlabError(f"batch_size={batch_size!r} must be a positive number of images")
    check_seed(seed)
    budget = bytes_of(memory)
    few = sampled_images(source)
    sample = few[:1].clone()
    network = Network(model, choose_device(device), sample)
    categories = _categories(source, network.categories, labels)
    one_layer = isinstance(layer, str) and layer != "all"
    names = _layers(network, layer)
    sites = [network.site(name) for name in names]
    repeated = {site.text for site in sites if [other.text for other in sites].count(site.text) > 1}
    if repeated:
        raise UnitlabError(f"layer={layer!r} names {sorted(repeated)} more than once")
    shapes = [network.site_shape(site) for site in sites]
    chosen = [_units(units, shape[1], site) for site, shape in zip(sites, shapes, strict=True)]
    if isinstance(basis, tuple) and all(isinstance(axes, Basis | None) for axes in basis):
        bases = list(basis)
    else:
        bases = [_basis(basis, network, source, site, shape[1], seed) for site, shape in zip(sites, shapes, strict=True)]
    engines = [
        _engine(network, site, numbers, budget // 2, precision, axes)
        for site, numbers, axes in zip(sites, chosen, bases, strict=True)
    ]
    sums = _bytes_of_sums(chosen, len(categories))
    if sums > budget // 2:
        raise UnitlabError(
            f"the sums over units and classes of {len(sites)} layer(s) take {sums / 1e9:.1f} GB, and memory={memory!r} leaves "
            f"half of that for them; give memory='{2 * sums / 1e9:.1f} GB' or more, or fewer layers at a time"
        )
    size = batch_size or _batch_size(network, engines, budget - sums)
    per_shard = max(size, SHARD_IMAGES // size * size)
    bounds = [(start, min(start + per_shard, len(source))) for start in range(0, len(source), per_shard)]
    plan = SweepPlan(
        network,
        sites,
        shapes,
        chosen,
        engines,
        ablation,
        labels,
        precision,
        seed,
        size,
        bounds,
        one_layer,
        budget,
        categories,
        bases,
    )
    plan.fingerprint = {
        "weights": weights_fingerprint(model),
        "images": images_fingerprint(source, tuple(sample.shape[1:])),
        "pixels": pixels_fingerprint(few),
        "transform": hashlib.sha256(source.transform_text.encode()).hexdigest(),
        "labels": labels,
        "layer": ", ".join(f"{site.layer}={site.text}" for site in sites),
        "ablation": ablation,
        "seed": str(seed),
        "units": hashlib.sha256(repr(chosen).encode()).hexdigest(),
        "precision": precision,
        "basis": ", ".join("none" if axes is None else axes.fingerprint for axes in bases),
        "device": network.device.type,
        "memory": str(budget),
        "batch": str(size),
        "shard": str(per_shard),
        "torch": torch.__version__,
    }
    return plan


def _basis(given: Any, network: Network, source: ImageSource, site: Site, channels: int, seed: int) -> Basis | None:
    """The basis of one layer, or None for its units."""
    if given is None:
        return None

    def site_values() -> Iterator[Tensor]:
        for batch, _ in source.batches(0, len(source), PRINCIPAL_AXES_BATCH):
            yield network.site_values(batch, [site])[0]

    return basis_of(given, channels, seed, site.layer, site_values)


def _engine(
    network: Network, site: Site, units: list[int], memory: int, precision: str, basis: Basis | None
) -> SuffixEngine | HookEngine:
    """The way in which one layer is ablated."""
    if basis is not None:
        # coordinates are removed from vectors and from maps; other values go through hooks
        if network.graph is None or len(network.site_shape(site)) not in (2, 4):
            return RotatedHookEngine(network.module, site.module, site.call, units, basis)
        return RotatedSuffixEngine(network.graph, network.node(site), network.sample, units, memory, precision, basis)
    if network.graph is None:
        return HookEngine(network.module, site.module, site.call, units)
    return SuffixEngine(network.graph, network.node(site), network.sample, units, memory, precision=precision)


def bytes_of(memory: str | int) -> int:
    """Bytes in "2 GB", "512 MiB" or a plain number.

    Raises
    ------
    UnitlabError
        Not an amount of memory, or less than 64 MB.
    """
    powers = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([a-zA-Z]*)\s*", str(memory))
    if match is None or match[2].lower() not in powers:
        raise UnitlabError(f"memory={memory!r} is not an amount of memory; give '2 GB', '512 MB' or a number of bytes")
    amount = int(float(match[1]) * powers[match[2].lower()])
    if amount < 64 * 10**6:
        raise UnitlabError(f"memory={memory!r} is too little; give '64 MB' or more")
    return amount


def weights_fingerprint(model: nn.Module) -> str:
    """SHA-256 of the state dict: names, dtypes, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if isinstance(tensor, Tensor):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def sampled_images(source: ImageSource) -> Tensor:
    """A few images, spread over all, the first one among them."""
    return source.at(np.unique(np.linspace(0, len(source) - 1, SAMPLED_IMAGES).astype(int)))


def pixels_fingerprint(few: Tensor) -> str:
    """SHA-256 of `sampled_images`: changed pictures or transforms are noticed before a sweep, not after it."""
    return hashlib.sha256(few.contiguous().numpy().tobytes()).hexdigest()


def images_fingerprint(source: ImageSource, shape: tuple[int, ...]) -> str:
    # the text of (ids, categories, shape), id by id: all at once it would be as large as the ids again
    digest = hashlib.sha256(b"([")
    for number, name in enumerate(source.ids):
        digest.update(f"{', ' if number else ''}{name!r}".encode())
    digest.update(f"], {list(source.categories)!r}, {shape!r})".encode())
    digest.update(np.ascontiguousarray(source.labels, dtype=np.int64).tobytes())
    return digest.hexdigest()


def _categories(source: ImageSource, logits: int, labels: str) -> list[str]:
    """Names of the network's classes."""
    if len(source.categories) == logits:
        return list(source.categories)
    if labels == "predicted":
        return [f"class {index}" for index in range(logits)]
    raise UnitlabError(
        f"the network tells {logits} classes apart and the images have {len(source.categories)} "
        f"({', '.join(map(repr, list(source.categories)[:3]))} …); give the network's {logits} class names in its own order: "
        "unitlab.images(..., categories=[...]), or labels='predicted'"
    )


def _layers(network: Network, layer: str | Sequence[str]) -> list[str]:
    """Names of the layers asked for; "all" stands for every convolution."""
    asked = [layer] if isinstance(layer, str) else list(layer) if isinstance(layer, Iterable) else []
    if not asked:
        raise UnitlabError(f"layer={layer!r} names no layer; give a module name such as 'layer4', a list of them, or 'all'")
    names: list[str] = []
    for name in asked:
        names += _convolutions(network) if name == "all" else [name]
    return names


def _convolutions(network: Network) -> list[str]:
    """Every convolution that is called once, after its ReLU where it has an alias and the ReLU is a module."""
    alias_of = {module: alias for alias, module in layer_names(network.module).items()}
    names, left_out = [], []
    for name, module in network.module.named_modules():
        if not isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            continue
        if network.calls.get(name, 0) != 1:
            left_out.append(name)
            continue
        try:
            names.append(network.site(alias_of.get(name, name)).layer)
        except UnitlabError:
            names.append(name)
    if left_out:
        log.info("layer='all' leaves out %s: not called, or several times; name the call, as in 'conv#2'", ", ".join(left_out))
    if not names:
        raise UnitlabError("layer='all': the network calls no convolution module")
    return names


def _units(units: Sequence[int] | None, channels: int, site: Site) -> list[int]:
    if units is None:
        return list(range(channels))
    try:
        chosen = [operator.index(unit) for unit in units]
    except TypeError as error:
        raise UnitlabError(f"units={units!r:.60} is not a list of unit numbers; give for example units=[3, 5]") from error
    if not chosen:
        raise UnitlabError("units=[] names no unit; leave it out for all units")
    wrong = [unit for unit in chosen if not 0 <= unit < channels]
    if wrong or len(set(chosen)) != len(chosen):
        what = f"{wrong[:5]} are not units of it" if wrong else "some units are given twice"
        raise UnitlabError(f"layer '{site.layer}' has units 0 to {channels - 1}; {what}")
    return sorted(chosen)


def _bytes_of_sums(units: list[list[int]], categories: int) -> int:
    """Bytes of what `ActivationStatistics` sums over units and classes: three arrays of float64."""
    return 3 * 8 * categories * sum(map(len, units))


def _batch_size(network: Network, engines: list[SuffixEngine | HookEngine], budget: int) -> int:
    """Images at a time such that the values of one evaluation stay within half of what ``budget`` has beside the sums."""
    element = network.sample.element_size()
    graph = network.graph
    if graph is None:
        return max(1, min(32, budget // (64 * network.sample.numel() * element)))
    shapes: dict[torch.fx.Node, int] = {}
    for engine in engines:
        if isinstance(engine, SuffixEngine):
            shapes.update({node: int(np.prod(shape[1:])) for node, shape in engine.suffix.shapes.items()})
    in_suffix = {node for engine in engines if isinstance(engine, SuffixEngine) for node in engine.suffix.nodes}
    # gradients keep the values of the suffix; the prefix keeps two or three of its widest
    prefix = sorted((shapes[node] for node in graph.nodes if node in shapes and node not in in_suffix), reverse=True)
    held = sum(shapes.get(node, 0) for node in in_suffix) * 2 + sum(prefix[:3]) + network.sample.numel()
    return int(max(1, min(MOST_BATCH, budget // 2 // max(1, held * element))))
