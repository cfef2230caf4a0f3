"""The replay with products in bfloat16 or TF32: only the change against the float32 baseline goes through them.

Rounding then scales with the change instead of with the values, and whatever lies between two products stays in
float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from unitlab.compute.engine.ablation import Pairs
from unitlab.compute.engine.capture import DROPOUT, NetworkGraph, Values, module_output
from unitlab.compute.engine.host_copies import Steps, on_host
from unitlab.compute.engine.replay import AblatedBatch, Replay
from unitlab.compute.engine.torch_state import has_reduced_products, tf32_products

Product = Callable[..., Tensor]
# The largest error of 64 pairs is 1.3 to 1.7 times below that of all (bundled networks, median of 200 draws; 3.6 times in the
# worst draw), that of 8 pairs 2 to 4 times (23 in the worst). So many at least, where there are so many: every n-th.
SAMPLED_PAIRS = 64
# A prediction whose top-two margin is under this many times the products' error is computed again in float32: twice since both
# logits err, and twice since the sample misses the largest error. At 4 up to 2 % of the pairs go there again, at 8 up to 3 %.
CLOSE_CALL = 4.0


class ReducedReplay:
    """Replays the mixed part of a suffix for (unit, image) pairs, as changes against the baseline.

    A value is held whole, as a change, or both: products take and give changes, everything else takes whole values.
    bfloat16 has 8 bits: near 100 its numbers are 0.5 apart, near 0.2 they are 0.001 apart. Where two ablations move a logit
    from 100.3 to 100.1 and to 100.2, whole values could not tell them apart; the changes −0.2 and −0.1 are added to the
    float32 baseline. TF32 has 11 bits, in products alone: what goes in and comes out is float32. What a sample shows to be too
    close for the error that remains is left to the float32 replay.
    """

    def __init__(self, exact: Replay, precision: str) -> None:
        self.exact = exact
        self.dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        self.close_calls = 0
        self.products: dict[torch.fx.Node, Product] = {}
        self.handed_on: set[torch.fx.Node] = set()  # whose change is that of what they read
        self.needed: set[torch.fx.Node] = set()  # whose baseline a change is taken against, or added to
        changing: set[torch.fx.Node] = set()
        folded = set()
        for node in exact.suffix.mixed:
            source = node.args[0] if node.args else None
            product, norm = None, _norm_behind(exact.graph, node)
            if source in exact.suffix.mixed and node not in exact.contributions:
                product = _product_of(exact.graph, node, norm, self.dtype)
            if product is not None:
                self.products[node] = product
                folded.add(norm)
                self.needed.update({node.all_input_nodes[0]} - changing)
            elif source in changing and (node in folded or _returns_its_input(exact.graph, node)):
                self.handed_on.add(node)
            else:
                self.needed.update(changing.intersection(node.all_input_nodes))
                continue
            changing.add(node)
        self.needed.update(changing & {exact.graph.output})

    def steps(self, batch: AblatedBatch, pairs: Pairs, at_once: int) -> Steps[None]:
        """Fill in scores of the pairs, ``at_once`` at a time; close calls in float32."""
        count = len(pairs.sets)
        every = slice(None, None, max(1, count // SAMPLED_PAIRS))  # so that a sampled row has the neighbours that it has here
        gaps, sampled = [], []
        for number, block in enumerate(pairs.blocks(at_once)):
            logits = self.logits(batch, block)
            sampled.append(logits[-number * at_once % every.step :: every.step])
            gap = batch.base.scoring.gap(logits, batch.base.labels[block.images])
            gaps.append(torch.where(torch.isfinite(logits).all(1), gap, -torch.inf))
            batch.fill(block, logits)
        if gaps:
            some = pairs.at(every)
            exact = torch.cat([self.exact.logits(batch, block) for block in some.blocks(at_once)])
            noise = (torch.cat(sampled) - exact).abs().max()
            # together, since a product of few rows costs as much as reading the weights
            (close,) = yield from on_host([~(torch.cat(gaps) >= CLOSE_CALL * noise)])
            doubtful = pairs.at(close.nonzero().flatten())
            self.close_calls += len(doubtful.sets)
            yield from self.exact.steps(batch, doubtful, at_once)

    def logits(self, batch: AblatedBatch, pairs: Pairs) -> Tensor:
        """Logits (pair, category)."""
        exact, before = self.exact, batch.base.values
        whole: Values = {}
        changes: dict[torch.fx.Node, Tensor] = {}
        for node in exact.suffix.mixed:
            if node in self.products:
                source = node.all_input_nodes[0]
                if source not in changes:
                    unshared = exact.last_use[source] is node
                    changes[source] = self._change(source, whole, before[source], pairs, unshared=unshared)
                changes[node] = self.products[node](changes[source])
            elif node in self.handed_on:
                changes[node] = changes[node.all_input_nodes[0]]
            else:
                for used in node.all_input_nodes:
                    if used in changes and used not in whole:
                        whole[used] = self._changed(used, before[used], pairs, changes[used])
                whole[node] = exact.value(node, batch, pairs, whole)
            exact.drop_used(node, whole, changes)
        output = exact.graph.output
        return whole[output] if output in whole else self._changed(output, before[output], pairs, changes[output])

    def _change(self, node: torch.fx.Node, whole: Values, before: Tensor, pairs: Pairs, *, unshared: bool) -> Tensor:
        """A value's difference to the baseline, as products take it; a value that nothing else reads gives its memory."""
        value, known = whole[node], self.exact.graph.of_images(node, before, pairs.images)
        if value.device.type == "cuda" and value.dtype != self.dtype:  # there the kernel itself rounds what it writes
            return torch.sub(value, known, out=torch.empty_like(value, dtype=self.dtype))
        unshared = unshared and not any(other is value for key, other in whole.items() if key is not node)
        return (value.sub_(known) if unshared else value - known).to(self.dtype)

    def _changed(self, node: torch.fx.Node, before: Tensor, pairs: Pairs, change: Tensor) -> Tensor:
        return self.exact.graph.of_images(node, before, pairs.images).add_(change)


def _product_of(graph: NetworkGraph, node: torch.fx.Node, norm: torch.fx.Node | None, dtype: torch.dtype) -> Product | None:
    """A linear layer, or a convolution without padding of its own kind, from change to change; batch norm is in its weights."""
    module, known = _module(graph, node), graph.weights(node)
    if known is None:
        return None
    if isinstance(module, nn.Linear) or node.target is F.linear:
        product: Product = F.linear
    elif isinstance(module, nn.Conv2d) and module.padding_mode == "zeros":
        options: Any = (module.stride, module.padding, module.dilation, module.groups)
        product = lambda change, weight: F.conv2d(change, weight, None, *options)  # noqa: E731
    else:
        return None
    weight = _reduced_weight(graph, node, known[0], norm, dtype)
    if dtype == torch.bfloat16:
        return lambda change: product(change.to(weight.dtype), weight).bfloat16()

    def tf32_product(change: Tensor) -> Tensor:
        with tf32_products():
            return product(change, weight)

    return tf32_product


def _returns_its_input(graph: NetworkGraph, node: torch.fx.Node) -> bool:
    """Whether a node is another name of what it reads."""
    module = _module(graph, node)
    return node.target is module_output or (isinstance(module, nn.Identity | DROPOUT) and not module.training)


def _norm_behind(graph: NetworkGraph, node: torch.fx.Node) -> torch.fx.Node | None:
    """The batch norm that is the only one to read a convolution; of a change it is one factor a channel."""
    reader = node if isinstance(_module(graph, node), nn.Conv2d) else None
    while reader is not None and len(reader.users) == 1:
        reader = next(iter(reader.users))
        module = _module(graph, reader)
        if isinstance(module, nn.BatchNorm2d) and module.running_var is not None and not module.training:
            return reader
        if reader.target is not module_output:
            break
    return None


def _module(graph: NetworkGraph, node: torch.fx.Node) -> nn.Module | None:
    return graph.modules.get(str(node.target)) if node.op == "call_module" else None


_WEIGHTS: WeakKeyDictionary[torch.fx.Node, dict[torch.dtype, Tensor]] = WeakKeyDictionary()


def _reduced_weight(
    graph: NetworkGraph, node: torch.fx.Node, given: Tensor, norm: torch.fx.Node | None, dtype: torch.dtype
) -> Tensor:
    """The weights as products take them, which all engines of a network share; bfloat16 as float32 where that is multiplied
    sooner: others multiply it several times slower than float32, which gives the same but for the rounding of sums."""
    held = _WEIGHTS.setdefault(node, {})
    if dtype not in held:
        weight = given.detach()
        if norm is not None:
            module: Any = _module(graph, norm)
            factor = (module.running_var.double() + module.eps).rsqrt()
            factor = factor * module.weight.detach() if module.affine else factor
            weight = weight * factor.reshape(-1, 1, 1, 1)
        weight = weight.to(dtype)
        held[dtype] = weight.float() if dtype == torch.bfloat16 and not _multiplies_bfloat16(weight.device) else weight
    return held[dtype]


def _multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the processor has fast bfloat16 products."""
    if device.type == "cuda":
        return has_reduced_products(device)  # torch emulates it on older ones
    return torch.backends.cpu.get_cpu_capability() == "AVX512"
