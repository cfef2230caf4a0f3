"""The network as a sweep runs it: one evaluation of a batch gives logits, site values, gradients and predictions."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
import torch.fx
from torch import Tensor, nn

from unitlab.compute.engine.ablation import BatchBaseline
from unitlab.compute.engine.capture import CannotCapture, NetworkGraph, Noise, Values, capture, exported
from unitlab.compute.engine.hooks import recorded_output, replaced_output, seen_output
from unitlab.compute.engine.host_copies import HostCopies, on_device
from unitlab.compute.engine.layers import Site, called_modules, find_site
from unitlab.compute.engine.scores import Rivals, Scoring
from unitlab.compute.engine.unit_dimension import UnitDimensions, UnitLayout
from unitlab.compute.engine.user_network.outputs import Output
from unitlab.compute.engine.user_network.read_network import read_network
from unitlab.compute.engine.user_network.working_copy import floating_dtype, working_copy
from unitlab.errors import UnitlabError

log = logging.getLogger("unitlab")

# On a CPU, larger values leave the cache, and glibc maps blocks over 32 MB afresh each time. With two threads, this and
# operations that overwrite took ResNet18 from 1.99 to 1.04 passes; with one, 32 images take 0.90 s by 8, 0.94 s at once.
CPU_WIDEST_VALUE = 16 << 20
LEAST_IMAGES = 4
PLAIN = Scoring()


@dataclass
class Evaluation:
    """One batch through the unablated network: logits (image, category), site values and what an engine needs."""

    baseline: BatchBaseline
    logits: Tensor
    site_values: list[Tensor]
    first_order: list[Tensor] | None
    rivals: Rivals | None = None


class Network:
    """A working copy of the user's network, captured where torch.fx can, with the sites of the layers asked for.

    Both copies return logits (image, category), read from what the network returns as ``reading`` says. ``module`` is the copy
    that hooks run, ``graph`` runs another one, channels_last; both share the user's memory if possible.
    A batch goes through the prefix once, a few images at a time, and through the suffix once, with gradients from the first
    site on; each engine then takes from the values kept what its units need.

    Parameters
    ----------
    model
        The user's network; it is left as it is.
    device
        Where to compute.
    few
        An image or more, (image, channel, row, column); the first one is the ``sample``.
    output
        As for `unitlab.ablate`.

    Raises
    ------
    UnitlabError
        As `read_network`, and for a network that gives NaN.
    """

    def __init__(self, model: nn.Module, device: torch.device, few: Tensor, output: Output = None) -> None:
        self.device, self._model = device, model
        self.graph: NetworkGraph | None = None
        read = read_network(model, device, few, output)
        self.module, self.reading, logits = read.module, read.reading, read.logits
        self.dtype = floating_dtype(self.module)
        self.sample = self.ready(few[:1].clone())
        self.categories = logits.shape[1]
        fast = self.reading.of(working_copy(model, device, channels_last=True, like=self.module))
        self._format = torch.channels_last if self.sample.dim() == 4 else torch.contiguous_format
        formatted = self.sample.contiguous(memory_format=self._format)
        self.graph = _captured(fast, formatted, logits, lambda: self._noise(fast, formatted, logits))
        shapes = {} if self.graph is None else self.graph.shapes
        widest = max((math.prod(shape) for shape in shapes.values()), default=1) * self.sample.element_size()
        self._images_at_once = max(LEAST_IMAGES, CPU_WIDEST_VALUE // widest) if device.type == "cpu" else sys.maxsize
        self.calls = called_modules(self.module, self.graph, self.sample)

    @cached_property
    def _uploads(self) -> torch.cuda.Stream:
        return torch.cuda.Stream(self.device)

    def ready(self, images: Tensor | Any) -> Tensor:
        """Images on the device, in the network's dtype; a graph takes them in the format that convolutions prefer.

        They go to a GPU on a stream of their own, while it computes with those before, if they are no tensor yet by their
        own ``on``.
        """
        if self.device.type == "cuda" and not images.is_cuda:
            computing = torch.cuda.current_stream(self.device)
            with torch.cuda.stream(self._uploads):
                images = on_device(images, self.device) if isinstance(images, Tensor) else images.on(self.device)
            computing.wait_stream(self._uploads)
            images.record_stream(computing)
        images = images.to(self.device, self.dtype)
        return images.contiguous(memory_format=self._format) if self.graph is not None else images

    def use_contiguous_maps(self) -> None:
        """From now on the graph computes with contiguous maps: on a GPU cuDNN takes channels_last apart for float32."""
        assert self.graph is not None
        self._format = torch.contiguous_format
        for module in self.graph.modules.values():
            for name, weight in list(module.named_parameters(recurse=False)):
                setattr(module, name, nn.Parameter(weight.detach().contiguous(), requires_grad=False))
        for node, value in self.graph.attributes.items():
            self.graph.attributes[node] = value.contiguous() if isinstance(value, Tensor) else value
        self.graph.__dict__.pop("constants", None)  # made of them, when they are asked for

    @property
    def capture(self) -> str:
        """What captured the network."""
        return "none" if self.graph is None else "torch.export" if self.graph.by_export else "torch.fx"

    def site(self, layer: str) -> Site:
        """The site that a layer's name means, with an output that has units."""
        site = find_site(self.module, self.graph, layer, self.calls)
        if self.graph is not None and self.node(site) not in self.graph.nodes:
            raise UnitlabError(
                f"layer='{layer}': the logits do not depend on what '{site.text}' returns (an auxiliary branch, or a call in "
                "place whose result the network does not use); give another layer, such as the one before it"
            )
        return site

    def located(self, sites: list[Site], unit_dims: list[int | None]) -> list[tuple[Site, UnitLayout]]:
        """The sites with the dimension of their units, which is the one given or the one that made the values shows.

        Raises
        ------
        UnitlabError
            A value that is no tensor (image, …), a dimension that it does not have; nothing tells which dimension it is.
        """
        returned: dict[Site, Any] = {}
        with torch.no_grad(), ExitStack() as stack:
            for site in dict.fromkeys(sites):
                stack.enter_context(seen_output(self.module, site, partial(returned.__setitem__, site)))
            dimensions = stack.enter_context(UnitDimensions(self.sample))
            self.module(self.sample)
        found = []
        for site, given in zip(sites, unit_dims, strict=True):
            layout = dimensions.layout(returned.get(site), site.layer, given)
            found.append((replace(site, unit_dim=layout.dim), layout))
        if self.graph is not None:
            # every layer's units are brought to the front before any engine looks at the graph
            nodes = {self.node(site): site for site, _ in found}
            wrong = [site.text for node, site in nodes.items() if self.graph.by_export and not self._is_proved(node, site)]
            if wrong:
                log.warning("forward hooks ablate all layers: torch.export's graph is not the network at %s", ", ".join(wrong))
                self.graph = None
        self.__dict__.pop("_float64", None)  # twice the network's memory, and needed no more
        return found

    def _is_proved(self, node: torch.fx.Node, site: Site) -> bool:
        """Whether a node is the site: what hooks see to the bit, and ablated there, the logits that hooks give in float64."""
        assert self.graph is not None
        if self.graph.calls[site.module][site.call] in self.graph.unproved:
            return False
        graph, images = self.graph, torch.cat([self.sample, self.sample.flip(-1)])

        def half_silent(value: Tensor) -> Tensor:
            out = value.clone()
            out[:, ::2] = 0
            return out

        plain = []
        with torch.no_grad():
            for network in (self.module, self._float64):
                with replaced_output(network, site, half_silent):
                    plain.append(network(images.to(floating_dtype(network))).double())
            place, values = graph.nodes.index(node) + 1, {graph.input: images}
            graph.run_slice(0, place, values, {node})
            values[node] = half_silent(values[node])
            logits = graph.run_slice(place, len(graph.nodes), values, {graph.output})[graph.output].double()
        in_float32, exact = plain
        noise = 1e-4 * (exact.amax() - exact.amin()) + 4 * (in_float32 - exact).abs().max()
        return bool((logits - exact).abs().max() <= noise)

    @cached_property
    def _float64(self) -> nn.Module:
        return self.reading.of(working_copy(self._model, self.device, dtype=torch.float64))

    def _noise(self, fast: nn.Module, sample: Tensor, logits: Tensor) -> float:
        """Four times the largest error of the sample's logits in either memory format, as float64 tells it."""
        try:
            with torch.no_grad():
                exact = self._float64(sample.double())
                return 4 * max(float((found - exact).abs().max()) for found in (logits, fast(sample)))
        except Exception:  # a network that does not run in float64, or not in this format
            return 0.0

    def node(self, site: Site) -> torch.fx.Node:
        """The graph's node of a site's value with its units first."""
        assert self.graph is not None
        return self.graph.with_units_first(self.graph.calls[site.module][site.call], site.unit_dim)

    def evaluate(
        self,
        images: Tensor,
        labels: Tensor | None,
        sites: list[Site],
        keep: set[torch.fx.Node],
        *,
        first_order: bool,
        scoring: Scoring = PLAIN,
        positions: np.ndarray | None = None,
        meeting: Sequence[torch.fx.Node] = (),
    ) -> Evaluation:
        """One batch: ``images`` (image, channel, row, column), ``labels`` (image) or None for the network's own.

        ``positions`` (image) tells outcomes which images they are. With ``meeting``, `Rivals` are told at these nodes, which
        must be among those to ``keep``.
        """
        images = self.ready(images)
        if self.graph is None:
            values: Values = {}
            logits, site_values = self._by_hooks(images, sites)
            gradients = None
        else:
            gradient = first_order or bool(meeting)
            with torch.set_grad_enabled(gradient):
                values, logits, site_values = self._by_graph(self.graph, images, sites, keep, gradient)
                gradients = None
        host = HostCopies()
        with torch.no_grad():
            detached = logits.detach().clone()
            host.then(_refuse_not_finite, torch.isfinite(detached).all())
            labels = detached.argmax(1) if labels is None else on_device(labels, self.device)
            where = on_device(np.arange(len(images)) if positions is None else positions, self.device)
            scores = scoring.of(detached, labels, where, self.dtype)
        rivals = Rivals.of(logits, labels, values, meeting) if meeting else None
        if first_order and self.graph is not None:
            gradients = self._first_order(logits, labels, site_values)
        values = {node: value.detach() if isinstance(value, Tensor) else value for node, value in values.items()}
        baseline = BatchBaseline(images, values, labels, where, scoring, scores, host)
        return Evaluation(baseline, detached, [value.detach() for value in site_values], gradients, rivals)

    def predictions(self, images: Tensor) -> np.ndarray:
        """Predicted classes of a batch."""
        images = self.ready(images)
        with torch.no_grad():
            if self.graph is None:
                logits = self.module(images)
            else:
                logits = self._prefix(self.graph, images, len(self.graph.nodes), {self.graph.output})[self.graph.output]
        return logits.argmax(1).cpu().numpy()

    def site_values(self, images: Tensor, sites: list[Site]) -> list[Tensor]:
        """The sites' values for a batch; the network runs up to the last of them."""
        images = self.ready(images)
        if self.graph is None:
            return self._by_hooks(images, sites)[1]
        nodes = [self.node(site) for site in sites]
        end = max(self.graph.nodes.index(node) for node in nodes) + 1
        values = self._prefix(self.graph, images, end, set(nodes))
        return [values[node] for node in nodes]

    def _by_graph(
        self, graph: NetworkGraph, images: Tensor, sites: list[Site], keep: set[torch.fx.Node], gradient: bool
    ) -> tuple[Values, Tensor, list[Tensor]]:
        """Values of the kept nodes, logits and site values; with ``gradient``, the sites are leaves or depend on one."""
        # what lies before the first site is evaluated without gradients, so that site is a leaf. A later site depends on it and
        # is differentiated in the middle of the graph, unless it lies on a branch beside: then it is a leaf, too
        nodes = [self.node(site) for site in sites]
        kept = keep | set(nodes) | {graph.output, graph.input}
        ends = sorted({graph.nodes.index(node) + 1 for node in nodes})
        start = min(ends, default=len(graph.nodes))
        values = self._prefix(graph, images, start, kept)
        if gradient:
            for end in ends:
                graph.run_slice(start, end, values, kept)
                node = graph.nodes[end - 1]
                if not values[node].requires_grad:
                    values[node] = values[node].detach().requires_grad_()
                start = end
        graph.run_slice(start, len(graph.nodes), values, kept)
        return values, values[graph.output], [values[node] for node in nodes]

    def _prefix(self, graph: NetworkGraph, images: Tensor, end: int, kept: set[torch.fx.Node]) -> Values:
        """Values of the nodes before ``end`` that are needed later, a few images at a time where that is faster."""
        parts: list[Values] = []
        with torch.no_grad():
            for first in range(0, len(images), self._images_at_once):
                part: Values = {graph.input: images[first : first + self._images_at_once]}
                parts.append(graph.run_slice(0, end, part, kept))
        if len(parts) > 1:
            count, device = len(images), self.device
            parts = [{node: graph.joined(node, [part[node] for part in parts], count, device) for node in parts[0]}]
        return {**parts[0], graph.input: images}

    def _first_order(self, logits: Tensor, labels: Tensor, site_values: list[Tensor]) -> list[Tensor]:
        """Σ over positions of activation × d(label margin)/d(activation), (image, unit), for each site."""
        rows = torch.arange(len(labels), device=self.device)
        own = logits[rows, labels]
        other = logits.scatter(1, labels.unsqueeze(1), -torch.inf).amax(1)
        gradients = torch.autograd.grad((own - other).sum(), site_values, allow_unused=True)
        found = []
        for value, gradient in zip(site_values, gradients, strict=True):
            product = torch.zeros_like(value) if gradient is None else value.detach() * gradient
            found.append(product.flatten(2).sum(2) if product.dim() > 2 else product)
        return found

    def _by_hooks(self, images: Tensor, sites: list[Site]) -> tuple[Tensor, list[Tensor]]:
        """Logits and site values where there is no graph."""
        with torch.no_grad(), ExitStack() as stack:
            recorded = [stack.enter_context(recorded_output(self.module, site)) for site in sites]
            logits = self.module(images)
        return logits, [values[0] for values in recorded]


def _captured(model: nn.Module, sample: Tensor, logits: Tensor, noise: Noise) -> NetworkGraph | None:
    """The graph of a network, by torch.fx, else by torch.export; None where neither captures it."""
    try:
        return capture(model, sample, logits, noise)
    except CannotCapture as error:
        by_fx = error
    try:
        graph = exported(model, sample, logits, noise)
    except CannotCapture as error:
        log.warning("the network is ablated by forward hooks, one evaluation a unit: %s; %s", by_fx, error)
        return None
    log.info("the network is captured by torch.export: %s", by_fx)
    return graph


def _refuse_not_finite(finite: Tensor) -> None:
    if not finite:
        raise UnitlabError("the network gives NaN or infinite logits; check its weights and the images' normalisation")
