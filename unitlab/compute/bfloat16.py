"""The replay with bfloat16 products: only the change against the float32 baseline goes through them.

Rounding then scales with the change instead of with the values, and whatever lies between two products stays in
float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from unitlab.compute.suffix import Baseline, Pairs, SuffixEngine, Values

__all__ = ["BFloat16Replay"]


class BFloat16Replay:
    """Replays the mixed part of a suffix for (unit, image) pairs, as changes against the baseline.

    A value is held whole, as a change, or both: products take and give changes, everything else takes whole values.
    """

    def __init__(self, engine: SuffixEngine) -> None:
        self.engine = engine
        self.products: dict[torch.fx.Node, tuple[nn.Module, Tensor]] = {}
        for node in engine.suffix.mixed:
            module = engine.graph.modules.get(str(node.target)) if node.op == "call_module" else None
            source = node.args[0] if node.args else None
            if not isinstance(module, nn.Linear | nn.Conv2d) or getattr(module, "padding_mode", "zeros") != "zeros":
                continue
            if source in engine.mixed and node not in engine.contributions:
                self.products[node] = (module, module.weight.detach().bfloat16())

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
                    changes[source] = whole[source] - base.values[source][pairs.images]
                changes[node] = self._product(node, changes[source])
            else:
                for used in node.all_input_nodes:
                    if used in changes and used not in whole:
                        whole[used] = base.values[used][pairs.images] + changes[used]
                whole[node] = engine._replayed(node, pairs, base, after, whole)
            for used in node.all_input_nodes:
                if last[used] is node:
                    whole.pop(used, None)
                    changes.pop(used, None)
        output = engine.graph.output
        return whole[output] if output in whole else base.values[output][pairs.images] + changes[output]

    def _product(self, node: torch.fx.Node, change: Tensor) -> Tensor:
        """Change of a linear operation's output."""
        module, weight = self.products[node]
        if isinstance(module, nn.Linear):
            return F.linear(change.bfloat16(), weight).float()
        assert isinstance(module, nn.Conv2d)
        options: Any = (module.stride, module.padding, module.dilation, module.groups)
        return F.conv2d(change.bfloat16(), weight, None, *options).float()
