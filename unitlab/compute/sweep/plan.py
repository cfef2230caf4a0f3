"""What a sweep is going to do: its layers with their engines, batches, shards, and the fingerprint of all that."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import torch
import torch.fx
from torch import Tensor, nn

from unitlab.compute.engine.ablation import Engine, Replacement, replacement_of
from unitlab.compute.engine.directions import Basis, RotatedHookEngine, RotatedSuffixEngine, basis_of, directions_of
from unitlab.compute.engine.hooks import HookEngine
from unitlab.compute.engine.layers import Site, layer_names
from unitlab.compute.engine.network import Network
from unitlab.compute.engine.scores import Scoring
from unitlab.compute.engine.suffix import SuffixEngine
from unitlab.compute.engine.torch_state import choose_device
from unitlab.compute.engine.user_network.outputs import as_returned, output_text
from unitlab.compute.engine.user_network.working_copy import preparation
from unitlab.compute.images.source import ImageSource
from unitlab.compute.sweep.fingerprints import (
    few_positions,
    sampled_images,
    source_fingerprints,
    text_fingerprint,
    unit_dim_field,
    weights_fingerprint,
)
from unitlab.compute.sweep.layer_plan import LayerPlan
from unitlab.compute.sweep.request import SweepRequest
from unitlab.compute.sweep.shard_bounds import (
    COPIES,
    MOST_ELEMENTS,
    bounds,
    bytes_of_image,
    bytes_read_ahead,
    images_at_once,
    images_of_shard,
    refuse_large_sums,
    whole_batches,
)
from unitlab.errors import UnitlabError, units_in_ranges

log = logging.getLogger("unitlab")

SHARD_IMAGES = 8192  # of a shard at most, however little is computed of each
# Bytes of an element: a quarter of the memory takes twice what the rows of a replay hold at most.
MOST_ENGINE_MEMORY = 4 * 2 * MOST_ELEMENTS
# what ImageNet and Places are told in beside top-1; of fewer classes five are no small part
TOP_K, TOP_K_CATEGORIES = 5, 100
PRINCIPAL_AXES_BATCH = 32


@dataclass
class UnitSums:
    """Sums of a layer's units over images and positions, and how many these are."""

    total: np.ndarray
    count: int

    @classmethod
    def of(cls, value: Tensor) -> UnitSums:
        """Of a site's value (image, unit, …)."""
        flat = value.double().flatten(2) if value.dim() > 2 else value.double().unsqueeze(2)
        return cls(flat.sum((0, 2)).cpu().numpy(), flat.shape[0] * flat.shape[2])

    def __add__(self, other: UnitSums) -> UnitSums:
        return UnitSums(self.total + other.total, self.count + other.count)


@dataclass
class SweepPlan:
    """Everything decided before the first image: the same plan gives the same bytes."""

    request: SweepRequest
    network: Network
    layers: list[LayerPlan]
    categories: list[str]
    fingerprint: dict[str, str]
    scoring: Scoring
    prepared: str  # what was changed of the network to compute with it
    batch_size: int = 0
    at_a_time: int = 1  # batches that are begun before the first one of them is done
    shard_bounds: list[tuple[int, int]] = field(default_factory=list)
    described_as: str = ""  # in place of the ablation and its layers
    sites: list[Site] = field(init=False)
    needed: set[torch.fx.Node] = field(init=False)  # whose values the engines read
    first_order: bool = field(init=False)  # whether gradients can be had
    prediction_dtype: type[np.signedinteger[Any]] = field(init=False)
    screened: list[LayerPlan] = field(init=False)  # of which pairs may be left out
    meeting: list[torch.fx.Node] = field(init=False)  # where the channels of these meet

    def __post_init__(self) -> None:
        self.sites = [layer.site for layer in self.layers]
        self.needed = {node for layer in self.layers for node in layer.engine.needed}
        self.first_order = self.network.graph is not None
        self.screened = [layer for layer in self.layers if self.request.screen is not None and layer.screenable]
        self.meeting = list(dict.fromkeys(node for engine in _suffix_engines(self.screened) for node in engine.meeting))
        self.prediction_dtype = np.int16 if self.network.categories <= np.iinfo(np.int16).max else np.int32

    @property
    def layers_text(self) -> str:
        """The layers' names, or how many there are."""
        names = ", ".join(layer.name for layer in self.layers)
        return names if len(names) < 40 else f"{len(self.layers)} layers"

    @property
    def bytes_ahead(self) -> int:
        """Of the images that wait for the network."""
        return bytes_read_ahead(self.request.free or self.request.budget, self.network.device.type)

    @property
    def output_attrs(self) -> dict[str, Any]:
        """What a study says of how the logits came about."""
        asked = self.request.output
        return {
            **({} if asked is as_returned else {"output": self.network.reading.text}),
            **({} if asked in (None, as_returned) else {"output_given": output_text(asked)}),
            **({"prepared": self.prepared} if self.prepared else {}),
        }

    @property
    def description(self) -> str:
        return self.described_as or f"{self.ablation_name} ablation of {self.layers_text}"

    @property
    def ablation_name(self) -> str:
        """What the study calls the ablation: its kind, or the basis whose directions are ablated."""
        basis, ablation = self.layers[0].basis, self.request.ablation
        if basis is None:
            return ablation
        return basis.name if ablation == "zero" else f"{basis.name}-{ablation}"

    @property
    def reading(self) -> dict[str, Any]:
        """How images are read for the device."""
        return {"pinned": self.network.device.type == "cuda", "ahead": self.bytes_ahead}

    def images_in(self, shards: Iterable[int]) -> int:
        """How many images some shards have; numbers from the last one on are those of a second attempt."""
        return sum(int(np.ptp(self.shard_bounds[index % len(self.shard_bounds)])) for index in shards)

    def for_images(self, count: int) -> SweepPlan:
        """The same for so many images: those that it was made for, or some of them."""
        return replace(self, shard_bounds=bounds(count, int(self.fingerprint["shard"])))

    def sized_for(self, device: str) -> SweepPlan:
        """The same in the batches and shards of a "cpu" or "cuda" that is to compute it."""
        request, classes = self.request, len(self.categories)
        shard = images_of_shard(self.network, self.layers, classes, device, request.budget, SHARD_IMAGES)
        held = COPIES * shard * bytes_of_image(self.layers, classes) + bytes_read_ahead(request.budget, device)
        held = held if device == "cpu" else 0
        engines, screened = _suffix_engines(self.layers), request.screen is not None
        size = request.batch_size or images_at_once(self.network, engines, request.budget - held, screened, device)
        # a GPU has something to do while the host waits, where two batches fit
        both = device != "cpu" and size <= images_at_once(self.network, engines, request.budget // 2, screened, device)
        sized = self._in(size, whole_batches(shard, size), {"device": device})
        return replace(sized, at_a_time=2 if both else 1)

    def as_begun(self, known: Mapping[str, str]) -> SweepPlan:
        """The same in the batches and shards of the unfinished sweep that has this fingerprint, if it is the same in all else:
        older versions had others.
        """
        begun = {**self.fingerprint, **{name: known.get(name, "") for name in ("batch", "shard")}}
        if known != begun or self.request.batch_size not in (None, int(begun["batch"])):
            return self
        return self._in(int(begun["batch"]), int(begun["shard"]), {})

    def _in(self, size: int, shard: int, fields: dict[str, str]) -> SweepPlan:
        fingerprint = {**self.fingerprint, **fields, "batch": str(size), "shard": str(shard)}
        return replace(self, batch_size=size, shard_bounds=bounds(int(fingerprint["count"]), shard), fingerprint=fingerprint)

    def of_layers(self, names: Iterable[str]) -> SweepPlan:
        """The same for some of the layers."""
        return replace(self, layers=[layer for name in names for layer in self.layers if layer.name == name])

    def means(self, sums: Iterable[list[UnitSums]]) -> dict[str, np.ndarray]:
        """Means of the units of each layer, from the sums of all shards in their order."""
        found = [reduce(add, of_layer) for of_layer in zip(*sums, strict=True)]
        return {layer.name: sums.total / sums.count for layer, sums in zip(self.layers, found, strict=True)}

    def replacements(self, values: Mapping[str, Any] | None, images: int) -> list[Replacement]:
        """What the units of each layer are replaced by, from their means or donors' values; None for zero."""
        kind, seed = self.request.ablation, self.request.seed
        return [
            replacement_of(kind, layer.shape, images, seed, None if values is None else np.asarray(values[layer.name]))
            for layer in self.layers
        ]

    @property
    def scores_fingerprint(self) -> dict[str, str]:
        """What is kept of logits, beyond prediction and margin."""
        top_k, outcome = self.scoring.top_k, self.scoring.text
        return {**({"top_k": str(top_k)} if top_k else {}), **({"outcome": outcome} if outcome else {})}

    def layer_fingerprint(self, layer: LayerPlan) -> dict[str, str]:
        """What a result of one layer depends on, beyond network and images."""
        return {
            **({} if layer.basis is None else {"basis": layer.basis.fingerprint}),
            "site": layer.site.text,
            "unit_dim": str(layer.site.unit_dim),
            "precision": self.request.precision,
            "seed": str(self.request.seed) if self.request.ablation == "resample" else "none",
            **({} if self.request.screen is None else {"screen": str(self.request.screen)}),
            **self.scores_fingerprint,
        }


def plan_sweep(
    model: nn.Module, source: ImageSource, request: SweepRequest, device: str | torch.device | None = None
) -> SweepPlan:
    """Decide how to do what is asked for with this network and these images.

    Raises
    ------
    UnitlabError
        As `unitlab.ablate` does for what the network or the images do not have.
    """
    if request.ablation == "resample" and len(source) < 2:
        raise UnitlabError("ablation='resample' takes a unit's map from another image; give two images or more")
    few = sampled_images(source)
    try:
        network = Network(model, choose_device(device), few, request.output)
    except UnitlabError as error:
        modules = model.modules() if isinstance(model, nn.Module) else ()
        first = next((module for module in modules if isinstance(module, nn.Conv2d)), None)
        if first is None or first.in_channels != 1 or few.shape[1] != 3:
            raise
        raise UnitlabError(
            f"{error}; the network takes one channel and the images have three (RGB): give for example transform="
            "transforms.Compose([transforms.Grayscale(), transforms.ToTensor()]), of torchvision.transforms"
        ) from error
    categories = _categories(source, network.categories, request.labels)
    scoring = _scoring(network, source, request, few)
    layers = _layers(network, source, request)
    on_gpu = network.device.type != "cpu" and network.graph is not None
    if on_gpu and not any(engine.has_reduced_convolutions for engine in _suffix_engines(layers)):
        network.use_contiguous_maps()
    refuse_large_sums(request, layers, len(categories))
    fingerprint = {
        "weights": weights_fingerprint(model),
        **source_fingerprints(source, few),
        "transform": text_fingerprint(source.transform_text),
        **({"reading": text_fingerprint(source.reading)} if source.reading else {}),
        "labels": request.labels,
        # studies that say nothing of it took what the network returned
        **({} if request.output is as_returned else {"output": text_fingerprint(network.reading.text)}),
        "layer": ", ".join(f"{layer.name}={layer.site.text}" for layer in layers),
        **unit_dim_field([layer.site.unit_dim for layer in layers]),
        "ablation": request.ablation,
        "seed": str(request.seed),
        "units": "; ".join(units_in_ranges(layer.units) for layer in layers),
        "count": str(len(source)),
        "precision": request.precision,
        **({} if request.screen is None else {"screen": str(request.screen)}),
        "basis": ", ".join("none" if layer.basis is None else layer.basis.fingerprint for layer in layers),
        "memory": str(request.budget),
        "torch": torch.__version__,
    }
    prepared = preparation(model)
    for said in (prepared and f"the network: {prepared}", network.reading.text != "as returned" and network.reading.text):
        if said:
            log.info("%s", said)
    plan = SweepPlan(request, network, layers, categories, fingerprint, scoring, prepared)
    fingerprint.update(plan.scores_fingerprint)
    return plan.sized_for(network.device.type)


def _scoring(network: Network, source: ImageSource, request: SweepRequest, few: Tensor) -> Scoring:
    """What is kept of logits; the outcome is tried on a few images."""
    top_k = request.top_k
    if top_k is None:
        # of pairs that a screen leaves out it could not be told
        top_k = TOP_K if network.categories >= TOP_K_CATEGORIES and request.screen is None else 0
    if top_k and not 2 <= top_k < network.categories:
        raise UnitlabError(
            f"top_k={top_k}: the network tells {network.categories} classes apart; give 2 to {network.categories - 1}, "
            "or 0 for none"
        )
    name, outcome = request.named_outcome
    scoring = Scoring(top_k, outcome, name)
    if outcome is not None:
        with torch.no_grad():
            logits = network.module(few.to(network.device, network.dtype))
        positions = few_positions(source)
        labels = logits.argmax(1) if request.labels == "predicted" else torch.as_tensor(source.labels[positions])
        scoring.check(logits, labels.to(network.device), torch.as_tensor(positions).to(network.device))
    return scoring


def _layers(network: Network, source: ImageSource, request: SweepRequest) -> list[LayerPlan]:
    """The layers asked for, all of them checked before the axes of any are worked out."""
    names = [found for name in request.layers for found in (_convolutions(network) if name == "all" else [name])]
    sites = [network.site(name) for name in names]
    repeated = {site.text for site in sites if [other.text for other in sites].count(site.text) > 1}
    if repeated:
        raise UnitlabError(f"layer={request.layer!r} names {sorted(repeated)} more than once")
    located = network.located(sites, [request.dimension(site.layer) for site in sites])
    given = request.axes or [_directions(request, site, layout.shape[1]) for site, layout in located]
    asked = [
        (site, layout, _units(request.units, layout.shape[1] if basis is None else len(basis.matrix), site))
        for (site, layout), basis in zip(located, given, strict=True)
    ]
    axes = given if any(given) else [_basis(network, source, request, site, layout.shape[1]) for site, layout, _ in asked]
    return [
        LayerPlan(site.layer, site, layout, units, basis, engine_of(network, request, site, units, basis))
        for (site, layout, units), basis in zip(asked, axes, strict=True)
    ]


def _directions(request: SweepRequest, site: Site, channels: int) -> Basis | None:
    """The directions for one layer, or None where none are given."""
    if request.directions is None:
        return None
    return directions_of(request.directions, channels, site.layer, request.subtract)


def _basis(network: Network, source: ImageSource, request: SweepRequest, site: Site, channels: int) -> Basis | None:
    """The basis of one layer, or None for its units."""
    if request.basis is None:
        return None

    def site_values() -> Iterator[Tensor]:
        for batch, _ in source.batches(0, len(source), PRINCIPAL_AXES_BATCH):
            yield network.site_values(batch, [site])[0]

    return basis_of(request.basis, channels, request.seed, site.layer, site_values, request.power)


def engine_of(network: Network, request: SweepRequest, site: Site, units: list[int], basis: Basis | None) -> Engine:
    """The way in which one layer is ablated. Engines work one after the other, so that each may use half of the memory."""
    graph = network.graph
    if graph is None:
        where = (network.module, site, units)
        return HookEngine(*where) if basis is None else RotatedHookEngine(*where, basis)
    memory = min((request.free or request.budget) // 2, MOST_ENGINE_MEMORY * network.sample.element_size())
    cut = (graph, network.node(site), network.sample, units, memory, request.precision)
    return SuffixEngine(*cut) if basis is None else RotatedSuffixEngine(*cut, basis)


def _suffix_engines(layers: list[LayerPlan]) -> list[SuffixEngine]:
    return [layer.engine for layer in layers if isinstance(layer.engine, SuffixEngine)]


def _categories(source: ImageSource, logits: int, labels: str) -> list[str]:
    """Names of the network's classes."""
    if len(source.categories) == logits:
        return list(source.categories)
    if labels == "predicted" or (not source.named and len(source.categories) < logits):
        return [f"class {index}" for index in range(logits)]
    raise UnitlabError(
        f"the network tells {logits} classes apart and the images have {len(source.categories)} "
        f"({', '.join(map(repr, list(source.categories)[:3]))} …); give the network's {logits} class names in its own order: "
        "unitlab.images(..., categories=[...]), or labels='predicted'"
    )


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
    chosen = list(range(channels) if units is None else units)
    wrong = [unit for unit in chosen if not 0 <= unit < channels]
    if wrong or len(set(chosen)) != len(chosen):
        what = f"{wrong[:5]} are not units of it" if wrong else "some units are given twice"
        raise UnitlabError(f"layer '{site.layer}' has units 0 to {channels - 1}; {what}")
    return sorted(chosen)
