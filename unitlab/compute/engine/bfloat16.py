"""The replay with bfloat16 products: only the change against the float32 baseline goes through them.

Rounding then scales with the change instead of with the values, and whatever lies between two products stays in
float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from unitlab.compute.engine.ablation import Pairs
from unitlab.compute.engine.capture import NetworkGraph, Values
from unitlab.compute.engine.replay import AblatedBatch, Replay

Product = Callable[..., Tensor]
# The largest error of 64 pairs is 1.3 to 1.7 times below that of all (bundled networks, median of 200 draws; 3.6 times in the
# worst draw), that of 8 pairs 2 to 4 times (23 in the worst). So many at least, where there are so many: every n-th.
SAMPLED_PAIRS = 64
# A prediction whose top-two margin is under this many times the bfloat16 error is computed again in float32: twice since both
# logits err, and twice since the sample misses the largest error. At 4 up to 2 % of the pairs go there again, at 8 up to 3 %.
CLOSE_CALL = 4.0


class BFloat16Replay:
    """Replays the mixed part of a suffix for (unit, image) pairs, as changes against the baseline.

    A value is held whole, as a change, or both: products take and give changes, everything else takes whole values.
    bfloat16 has 8 bits: near 100 its numbers are 0.5 apart, near 0.2 they are 0.001 apart. Where two ablations move a logit
    from 100.3 to 100.1 and to 100.2, whole values could not tell them apart; the changes −0.2 and −0.1 are added to the
    float32 baseline. What a sample shows to be too close for the error that remains is left to the float32 replay.
    """

    def __init__(self, exact: Replay) -> None:
        self.exact = exact
        self.close_calls = 0
        self.products: dict[torch.fx.Node, Product] = {}
        for node in exact.suffix.mixed:
            source = node.args[0] if node.args else None
            if source in exact.suffix.mixed and node not in exact.contributions:
                product = _product_of(exact.graph, node)
                if product is not None:
                    self.products[node] = product

    def evaluate(self, batch: AblatedBatch, pairs: Pairs, at_once: int) -> None:
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
            doubtful = pairs.at((~(torch.cat(gaps) >= CLOSE_CALL * noise)).cpu().nonzero().flatten())
            self.close_calls += len(doubtful.sets)
            self.exact.evaluate(batch, doubtful, at_once)

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
            else:
                for used in node.all_input_nodes:
                    if used in changes and used not in whole:
                        whole[used] = self._changed(used, before[used], pairs, changes[used])
                whole[node] = exact.value(node, batch, pairs, whole)
            exact.drop_used(node, whole, changes)
        output = exact.graph.output
        return whole[output] if output in whole else self._changed(output, before[output], pairs, changes[output])

    def _change(self, node: torch.fx.Node, whole: Values, before: Tensor, pairs: Pairs, *, unshared: bool) -> Tensor:
        """A value's difference to the baseline, in bfloat16; a value that nothing else reads gives its memory."""
        value, known = whole[node], self.exact.graph.of_images(node, before, pairs.images)
        unshared = unshared and not any(other is value for key, other in whole.items() if key is not node)
        return (value.sub_(known) if unshared else value - known).bfloat16()

    def _changed(self, node: torch.fx.Node, before: Tensor, pairs: Pairs, change: Tensor) -> Tensor:
        return self.exact.graph.of_images(node, before, pairs.images).add_(change)


def _product_of(graph: NetworkGraph, node: torch.fx.Node) -> Product | None:
    """A linear layer, or a convolution without padding of its own kind, from change to change, in bfloat16."""
    module = graph.modules.get(str(node.target)) if node.op == "call_module" else None
    known = graph.weights(node)
    if known is None:
        return None
    if isinstance(module, nn.Linear) or node.target is F.linear:
        product: Product = F.linear
    elif isinstance(module, nn.Conv2d) and module.padding_mode == "zeros":
        options: Any = (module.stride, module.padding, module.dilation, module.groups)
        product = lambda change, weight: F.conv2d(change, weight, None, *options)  # noqa: E731
    else:
        return None
    weight = _bfloat16_weight(known[0])
    return lambda change: product(change.to(weight.dtype), weight).bfloat16()


_WEIGHTS: Any = WeakIdKeyDictionary()


def _bfloat16_weight(given: Tensor) -> Tensor:
    """The weights in bfloat16, which all engines of a network share; as float32 where that is multiplied sooner."""
    if given not in _WEIGHTS:
        weight = given.detach().bfloat16()
        _WEIGHTS[given] = weight if _multiplies_bfloat16(weight.device) else weight.float()
    held: Tensor = _WEIGHTS[given]
    return held


def _multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the processor has fast bfloat16 products: others multiply it several times slower than float32, which gives
    the same but for the rounding of sums."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)  # torch emulates it on older ones
    return torch.backends.cpu.get_cpu_capability() == "AVX512"
