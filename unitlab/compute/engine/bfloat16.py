"""The replay with bfloat16 products: only the change against the float32 baseline goes through them.

Rounding then scales with the change instead of with the values, and whatever lies between two products stays in
float32.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from unitlab.compute.engine.ablation import Baseline, Pairs
    from unitlab.compute.engine.capture import Values
    from unitlab.compute.engine.suffix import SuffixEngine


class BFloat16Replay:
    """Replays the mixed part of a suffix for (unit, image) pairs, as changes against the baseline.

    A value is held whole, as a change, or both: products take and give changes, everything else takes whole values.
    """

    def __init__(self, engine: SuffixEngine) -> None:
        # the engine owns this: a cycle would keep its weights until Python looks for cycles
        self.engine: SuffixEngine = weakref.proxy(engine)
        self.products: dict[torch.fx.Node, tuple[nn.Module, Tensor]] = {}
        for node in engine.suffix.mixed:
            module = engine.graph.modules.get(str(node.target)) if node.op == "call_module" else None
            source = node.args[0] if node.args else None
            if not isinstance(module, nn.Linear | nn.Conv2d) or getattr(module, "padding_mode", "zeros") != "zeros":
                continue
            if source in engine.mixed and node not in engine.contributions:
                self.products[node] = (module, _bfloat16_weight(module))

    @property
    def needed(self) -> set[torch.fx.Node]:
        """Baseline values that the replay reads: what products take and give, and what meets a change."""
        return set(self.engine.suffix.mixed)

    def logits(self, pairs: Pairs, base: Baseline, after: Values, suspicious: dict[torch.fx.Node, Tensor]) -> Tensor:
        """Logits of the pairs."""
        engine = self.engine
        whole: Values = {}
        changes: dict[torch.fx.Node, Tensor] = {}
        last = {used: node for node in engine.suffix.mixed for used in node.all_input_nodes}
        for node in engine.suffix.mixed:
            part = engine.contributions.get(node)
            if part is not None:
                whole[node] = engine._contributed(node, part, pairs, base, after, suspicious[node])
            elif node in self.products:
                source = node.args[0]
                assert isinstance(source, torch.fx.Node)
                if source not in changes:
                    changes[source] = self._change(source, whole, base, pairs, last_use=last[source] is node)
                changes[node] = self._product(node, changes[source])
            else:
                for used in node.all_input_nodes:
                    if used in changes and used not in whole:
                        whole[used] = _changed(base.values[used], pairs, changes[used])
                whole[node] = engine._replayed(node, pairs, base, after, whole)
            for used in node.all_input_nodes:
                if last[used] is node:
                    whole.pop(used, None)
                    changes.pop(used, None)
        output = engine.graph.output
        return whole[output] if output in whole else _changed(base.values[output], pairs, changes[output])

    def _change(self, node: torch.fx.Node, whole: Values, base: Baseline, pairs: Pairs, *, last_use: bool) -> Tensor:
        """A value's difference to the baseline, in bfloat16; a value that nothing else reads gives its memory."""
        value = whole[node]
        unshared = last_use and not any(other is value for key, other in whole.items() if key is not node)
        before = base.values[node].index_select(0, pairs.images)
        return (value.sub_(before) if unshared else value - before).bfloat16()

    def _product(self, node: torch.fx.Node, change: Tensor) -> Tensor:
        """Change of a linear operation's output, in bfloat16."""
        module, weight = self.products[node]
        change = change.to(weight.dtype)
        if isinstance(module, nn.Linear):
            return F.linear(change, weight).bfloat16()
        assert isinstance(module, nn.Conv2d)
        options: Any = (module.stride, module.padding, module.dilation, module.groups)
        return F.conv2d(change, weight, None, *options).bfloat16()


_WEIGHTS: weakref.WeakKeyDictionary[nn.Module, Tensor] = weakref.WeakKeyDictionary()


def _bfloat16_weight(module: nn.Linear | nn.Conv2d) -> Tensor:
    """The weights in bfloat16, which all engines of a network share; as float32 where that is multiplied sooner."""
    if module not in _WEIGHTS:
        weight = module.weight.detach().bfloat16()
        _WEIGHTS[module] = weight if _multiplies_bfloat16(weight.device) else weight.float()
    return _WEIGHTS[module]


def _multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the processor has fast bfloat16 products: others multiply it several times slower than float32, which gives
    the same but for the rounding of sums."""
    return device.type != "cpu" or torch.backends.cpu.get_cpu_capability() == "AVX512"


def _changed(before: Tensor, pairs: Pairs, change: Tensor) -> Tensor:
    return before.index_select(0, pairs.images).add_(change)
