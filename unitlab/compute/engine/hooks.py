"""Ablation by plain forward hooks: the reference that everything else must equal, and the way that always works."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from unitlab.compute.engine.ablation import BatchBaseline, refuse_not_finite
from unitlab.compute.engine.host_copies import Steps, on_device
from unitlab.compute.engine.layers import Site
from unitlab.compute.engine.scores import Scores
from unitlab.compute.engine.unit_dimension import units_back, units_first


@contextmanager
def replaced_output(model: nn.Module, site: Site, replace: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Within the block, a site's value in each evaluation is ``replace(value)``, both (image, unit, …)."""
    with seen_output(model, site, lambda output: units_back(replace(units_first(output, site.unit_dim)), site.unit_dim)):
        yield


@contextmanager
def seen_output(model: nn.Module, site: Site, see: Callable[[Any], Any]) -> Iterator[None]:
    """Within the block, ``see`` gets what a site's call returns, as it is; what it returns takes its place, unless None."""
    seen = 0

    def count_from_zero(*_: object) -> None:
        nonlocal seen
        seen = 0

    def hook(_module: nn.Module, _inputs: object, output: Any) -> Any:
        nonlocal seen
        seen += 1
        return see(output) if seen == site.call + 1 else None

    handles = [model.register_forward_pre_hook(count_from_zero), model.get_submodule(site.module).register_forward_hook(hook)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def recorded_output(model: nn.Module, site: Site) -> Iterator[list[Tensor]]:
    """Within the block, a site's values (image, unit, …), one for each evaluation, are appended to a list."""
    recorded: list[Tensor] = []

    def keep(output: Tensor) -> Tensor:
        recorded.append(output.detach().clone())
        return output

    with replaced_output(model, site, keep):
        yield recorded


class ModulesBefore:
    """Modules that an evaluation is done with when it reaches a site, and the site's own: they need not be run for every unit.

    In ``fc(relu(conv2(relu(conv1(x)))))`` conv1, the first relu and conv2 are done before the second relu; where both relus are
    one module, that one is run again. What returns its input, a view of it, or changes it is run again as well, since another
    name of that memory may be used later: ``relu_(x); conv2(x)``. Functions between modules are, too.
    """

    def __init__(self, model: nn.Module, site: Site, images: Tensor) -> None:
        self.model, self.site = model, site
        done, again = self._watched(dict(model.named_modules()), images, lambda _module, _returned: None)
        self.modules: dict[str, nn.Module] = {}
        for name, module in model.named_modules():
            inside = any(name.startswith(f"{other}.") for other in self.modules)
            if name in done and name not in again and not inside:
                self.modules[name] = module

    def returned(self, images: Tensor) -> dict[nn.Module, list[Any]]:
        """What the modules return on a batch, call by call; without those that this batch calls after the site."""
        kept: dict[nn.Module, list[Any]] = {module: [] for module in self.modules.values()}
        _, again = self._watched(self.modules, images, lambda module, value: kept[module].append(_copied(value)))
        return {module: values for module, values in kept.items() if self._name(module) not in again}

    @contextmanager
    def skipped(self, returned: dict[nn.Module, list[Any]]) -> Iterator[None]:
        """Within the block, each evaluation takes what the modules returned instead of running them."""
        with ExitStack() as stack:
            for module, values in returned.items():
                had = vars(module).get("forward")
                left = list(values)
                run = module.forward

                def forward(*given: Any, left: list[Any] = left, run: Any = run, **named: Any) -> Any:
                    # a copy, since what follows may write into it
                    return _copied(left.pop(0)) if left else run(*given, **named)

                module.forward = forward
                stack.callback(partial(delattr, module, "forward") if had is None else partial(setattr, module, "forward", had))
            yield

    def _name(self, module: nn.Module) -> str:
        return next(name for name, other in self.modules.items() if other is module)

    def _watched(
        self, modules: dict[str, nn.Module], images: Tensor, keep: Callable[[nn.Module, Any], object]
    ) -> tuple[set[str], set[str]]:
        """Modules whose calls end before the site's begins, the site's among them, and those that must be run again."""
        done: set[str] = set()
        again: set[str] = set()
        reached, calls = False, 0
        versions: dict[str, list[int]] = {}

        def begin(name: str, _module: nn.Module, given: Any, named: Any) -> None:
            nonlocal reached, calls
            versions[name] = [tensor._version for tensor in _tensors((given, named))]
            if name == self.site.module:
                reached, calls = reached or calls == self.site.call, calls + 1

        def end(name: str, module: nn.Module, given: Any, named: Any, returned: Any) -> None:
            used = _tensors((given, named))
            memory = {tensor.untyped_storage().data_ptr() for tensor in used}
            unchanged = versions[name] == [tensor._version for tensor in used]
            fresh = not any(tensor.untyped_storage().data_ptr() in memory for tensor in _tensors(returned))
            at_site = name == self.site.module and self.site.calls == 1
            known = all(isinstance(leaf, Tensor | int | float | str | None) for leaf in tree_leaves(returned))
            (done if unchanged and fresh and known and (not reached or at_site) else again).add(name)
            keep(module, returned)

        with torch.no_grad(), ExitStack() as stack:
            for name, module in modules.items():
                if name:
                    before = module.register_forward_pre_hook(partial(begin, name), with_kwargs=True)
                    after = module.register_forward_hook(partial(end, name), with_kwargs=True)
                    stack.callback(before.remove)
                    stack.callback(after.remove)
            if self.site.module not in modules:
                site = self.model.get_submodule(self.site.module)
                before = site.register_forward_pre_hook(partial(begin, self.site.module), with_kwargs=True)
                stack.callback(before.remove)
            self.model(images)
        return done, again


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def _copied(value: Any) -> Any:
    return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, value)


class HookEngine:
    """One evaluation of the network per set of units; same results as the suffix engine, for what it cannot cut.

    Two units on eight images are two evaluations of the eight images, with ``output[:, u] = ablated[:, u]`` at the site. What
    modules before the site return is kept from an evaluation without ablation.
    """

    def __init__(self, model: nn.Module, site: Site, units: list[int]) -> None:
        self.model, self.site = model, site
        self.sets: list[list[int]] = [[unit] for unit in units]
        self.before: ModulesBefore | None = None

    strategy = "forward hooks: one evaluation for each unit, of all but the modules before the layer"
    needed: frozenset[torch.fx.Node] = frozenset()

    def silence_together(self, sets: Sequence[Sequence[int]]) -> None:
        """From now on ablate each of these sets of units as a whole."""
        self.sets = [list(one) for one in sets]

    def evaluate(self, base: BatchBaseline, ablated: Tensor) -> Scores:
        """Scores of one batch, (set, image) each."""
        if self.before is None:
            self.before = ModulesBefore(self.model, self.site, base.images[:1])
        returned = self.before.returned(base.images)
        found: list[Scores] = []
        finite: list[Tensor] = []
        for units in self.sets:
            replace = partial(self.replaced, units=units, ablated=ablated)
            with torch.no_grad(), self.before.skipped(returned), replaced_output(self.model, self.site, replace):
                logits = self.model(base.images)
            finite.append(torch.isfinite(logits).all())
            found.append(base.scores_of(logits))
        base.host.then(partial(refuse_not_finite, self.sets), torch.stack(finite).unsqueeze(1))
        return {name: torch.stack([scores[name] for scores in found]) for name in base.scores}

    def steps(self, base: BatchBaseline, ablated: Tensor) -> Steps[Scores]:
        """The same in one step."""
        yield from ()
        return self.evaluate(base, ablated)

    def replaced(self, value: Tensor, units: list[int], ablated: Tensor) -> Tensor:
        """The site's value with the units replaced by their share of ``ablated``, both (image, unit, …)."""
        out, instead = value.clone(), ablated.expand_as(value)
        # one unit by its number, which needs no upload of an index
        where: Any = units[0] if len(units) == 1 else on_device(torch.tensor(units, dtype=torch.long), value.device)
        out[:, where] = instead[:, where]
        return out
