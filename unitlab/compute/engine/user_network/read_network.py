"""What a network's logits are, decided once, on a few images."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from unitlab.compute.engine.user_network.company import alone_logits, same, same_in_float64, what_couples
from unitlab.compute.engine.user_network.foreign_hooks import value_changing_hooks
from unitlab.compute.engine.user_network.outputs import (
    ENDINGS,
    SMALLEST,
    Output,
    Reading,
    ValuesBefore,
    as_returned,
    output_text,
)
from unitlab.compute.engine.user_network.working_copy import floating_dtype, working_copy
from unitlab.errors import UnitlabError, what_it_says

log = logging.getLogger("unitlab")

LOGITS_WANTED = "logits (image, category) are wanted: give output=, a name, an index or a function of what it returns"


@dataclass(frozen=True)
class ReadNetwork:
    """A copy of the user's network that returns logits (image, category), how they are read, and those of the first image."""

    module: nn.Module
    reading: Reading
    logits: Tensor


def read_network(model: nn.Module, device: torch.device, few: Tensor, asked: Output = None) -> ReadNetwork:
    """Decide how logits are read, and check that an image's do not depend on who shares its batch.

    Parameters
    ----------
    model
        The user's network.
    few
        An image or more, (image, channel, row, column).
    asked
        ``output`` of `unitlab.ablate`.

    Raises
    ------
    UnitlabError
        The network does not take the images, does not return what can be read as logits of two classes or more, or gives
        other logits for an image in company than for the same image alone.
    """
    module = working_copy(model, device)
    few = few.to(device, floating_dtype(module))
    company = few[[0, -1]]
    if torch.equal(company[0], company[1]):
        company = torch.stack([few[0], few[0].flip(-1) * 0.5])
    with torch.no_grad():
        decision = _Decision(module, company, few, asked)
        reading = decision.reading()
        changing = value_changing_hooks(model, module, lambda: decision.returned_for(company))
    if changing:
        log.warning(
            "hooks of yours change values and have no part in the study: %s; make what they do a module of the network, if it "
            "is to be studied with it", ", ".join(changing),
        )  # fmt: skip
    with torch.no_grad():
        module = reading.of(module)
        together = decision.returned if reading.plain else module(company)
        alone = alone_logits(module, company[:1])
        if alone.shape != together[:1].shape and alone.numel() == together[0].numel():
            # squeeze() takes away the one image, too
            text = _joined(reading.text, f"squeezed to (image, {together.shape[1]})")
            reading = replace(reading, columns=together.shape[1], plain=False, text=text)
            module = reading.of(working_copy(model, device))
            together, alone = module(company), module(company[:1])
        # what draws something may draw the same twice
        draws = any(layer.training for layer in module.modules())
        equal = all(same(together[:1], module(company[:1]) if more else alone) for more in range(1 + 8 * draws))
        if not equal and not same_in_float64(model, device, reading, company):
            raise UnitlabError(what_couples(module, company))
    return ReadNetwork(module, reading, alone)


class _Decision:
    """How a network's logits are read, from what it returns for two images."""

    def __init__(self, module: nn.Module, company: Tensor, few: Tensor, asked: Output) -> None:
        self.module, self.company, self.few = module, company, few
        self.asked = None if asked is as_returned else asked
        self.guesses = not callable(asked)
        self.argument, self.parameters = _image_argument(module)
        self.said = [f"images given as {self.argument}"] if self.argument else []

    def reading(self) -> Reading:
        self.returned = self.returned_for(self.company)
        found = Reading(self.argument, self._element(self.returned))
        values = _taken(found, self.returned)
        columns = self._columns(values)
        flat = values.reshape(-1, columns)
        if values.shape != flat.shape:
            found = replace(found, columns=columns)
            self.said.append(f"squeezed from ({', '.join(['image', *map(str, values.shape[1:])])})")
        if self.guesses:
            found = self._without_ending(found, flat)
        if columns == 1:
            found = replace(found, binary=True)
            self.said.append("its one value z as two classes with the logits (−z/2, z/2)")
        plain = found == Reading() and self.parameters == 1
        return replace(found, plain=plain, text="; ".join(self.said) or Reading.text)

    def returned_for(self, images: Tensor) -> Any:
        """What the network returns."""
        try:
            return self.module(**{self.argument: images}) if self.argument else self.module(images)
        except Exception as error:
            raise UnitlabError(
                f"the network does not take images of shape {tuple(images.shape[1:])} (channel, row, column): "
                f"{what_it_says(error)}"
            ) from error

    def _element(self, returned: Any) -> Output:
        """Which element of what the network returned is taken."""
        kind = type(returned).__name__
        if callable(self.asked):
            self.said.append(f"what output= ({output_text(self.asked)}) gives of it")
            return self.asked
        if isinstance(returned, Tensor):
            if self.asked is not None:
                raise UnitlabError(
                    f"output={self.asked!r}: the network returns a tensor {tuple(returned.shape)}, not several elements; leave "
                    "output out, or give a function of the tensor"
                )
            return None
        named = _named_elements(returned)
        if named is None and not isinstance(returned, tuple | list):
            raise UnitlabError(f"the network returns a {kind}; {LOGITS_WANTED}")
        names: list[Any] = list(range(len(returned))) if named is None else list(named)
        if self.asked is not None:
            known = [*names, *range(-len(names), len(names))]
            if self.asked not in known:
                raise UnitlabError(f"output={self.asked!r}: the network returns {_contents(returned)}; name one of these")
            self.said.append(f"the element {self.asked!r} of {kind}")
            return self.asked
        tensors = [name for name in names if isinstance((named or returned)[name], Tensor)]
        element: Output = "logits" if "logits" in names else tensors[0] if len(tensors) == 1 else None
        if element is None and isinstance(returned, tuple | list) and returned and isinstance(returned[0], Tensor):
            element = 0
        if element is None:
            raise UnitlabError(
                f"the network returns {_contents(returned)}; say which of these are the logits: output={names[0]!r}"
            )
        self.said.append(f"the element {element!r} of {kind}")
        return element

    def _columns(self, values: Any) -> int:
        """How many values an image has."""
        if not isinstance(values, Tensor) or not values.is_floating_point():
            what = f"values of type {values.dtype}" if isinstance(values, Tensor) else f"a {type(values).__name__}"
            raise UnitlabError(f"{self._from()} {what}; {LOGITS_WANTED}")
        sizes = values.shape[1:]
        if values.dim() == 0 or len(values) != len(self.company) or sum(size != 1 for size in sizes) > 1 or 0 in sizes:
            raise UnitlabError(
                f"{self._from()} {tuple(values.shape)} for {len(self.company)} images; {LOGITS_WANTED}, such as "
                "output=lambda returned: returned.mean((2, 3)) of maps (image, category, row, column)"
            )
        return math.prod(sizes)

    def _from(self) -> str:
        return f"{self.said[-1]} gives" if self.said and not self.said[-1].startswith("images") else "the network returns"

    def _without_ending(self, found: Reading, flat: Tensor) -> Reading:
        """Probabilities are no logits: the reading with what lies before the final softmax or sigmoid."""
        within = bool(((flat >= 0) & (flat <= 1)).all())
        if within and flat.shape[1] > 1 and bool(((flat.sum(1) - 1).abs() < 1e-4).all()):
            cut = self._cut(found, flat, "softmax")
            if cut is None:
                self.said.append(f"the logarithm of its probabilities, of {SMALLEST:.3g} at least (no final softmax was found)")
                return replace(found, before="log")
            return cut
        cut = self._cut(found, flat, "sigmoid") if within else None
        if cut is not None:
            return cut
        if within and flat.shape[1] == 1:
            more = _taken(found, self.returned_for(self.few))
            if bool(((more >= 0) & (more <= 1)).all()):
                raise UnitlabError(
                    "the network returns one value within [0, 1] for each image, and no final sigmoid is found: a probability "
                    "or a logit? Give output=lambda p: torch.logit(p) for a probability, output=lambda z: z for a logit"
                )
        return found

    def _cut(self, found: Reading, flat: Tensor, ending: str) -> Reading | None:
        """The reading with the value before a final softmax or sigmoid, if there is one and it gives what was returned."""
        places: list[tuple[str, int]] = []
        handles = [
            module.register_forward_hook(lambda *call, name=name: places.append((name, id(call[2]))))
            for name, module in self.module.named_modules()
            if name and type(module).__name__.lower() in ENDINGS[ending]
        ]
        with ValuesBefore(ending) as values:
            result = _taken(found, self.returned_for(self.company))
        for handle in handles:
            handle.remove()
        if id(result) not in values.known:
            return None
        given = values.before(result)
        before = given.reshape(flat.shape)
        again = before.softmax(1) if ending == "softmax" else before.sigmoid()
        if not torch.allclose(again, flat, rtol=1e-4, atol=1e-6):
            return None
        where = next((name for name, key in reversed(places) if key in values.known), "")
        self.said.append(f"the value before its final {ending}" + (f" '{where}'" if where else ""))
        return replace(found, before=ending, columns=0 if given.shape == flat.shape else flat.shape[1])


def _taken(reading: Reading, returned: Any) -> Any:
    try:
        return reading.taken(returned)
    except Exception as error:
        raise UnitlabError(f"output= fails on what the network returns ({what_it_says(error)})") from error


def _image_argument(module: nn.Module) -> tuple[str, int]:
    """By which name a network takes its images ("": by position), and how many parameters it has."""
    try:
        parameters = inspect.signature(module.forward).parameters
    except (TypeError, ValueError):
        return "", 1
    kinds = inspect.Parameter
    by_place = [name for name, one in parameters.items() if one.kind not in (kinds.KEYWORD_ONLY, kinds.VAR_KEYWORD)]
    if "pixel_values" in parameters and by_place[:1] != ["pixel_values"]:
        return "pixel_values", len(parameters)
    needed = [
        name
        for name in by_place
        if parameters[name].default is kinds.empty and parameters[name].kind is not kinds.VAR_POSITIONAL
    ]
    if len(needed) > 1:
        raise UnitlabError(
            f"the network's forward needs {', '.join(map(repr, needed))}, not images alone; wrap it in a module whose "
            "forward(images) gives it the others"
        )
    if by_place:
        return "", len(parameters)
    by_name = [one for one in parameters.values() if one.kind is kinds.KEYWORD_ONLY]
    required = [one.name for one in by_name if one.default is kinds.empty] or [one.name for one in by_name]
    if len(required) != 1:
        raise UnitlabError(
            f"the network's forward{inspect.signature(module.forward)} does not tell which argument takes the images; "
            "wrap it in a module whose forward(images) calls it"
        )
    return required[0], len(parameters)


def _named_elements(returned: Any) -> dict[str, Any] | None:
    """Elements by name: of a dict, a named tuple, an object with attributes."""
    if isinstance(returned, Mapping):
        return {str(name): value for name, value in returned.items() if value is not None}
    if hasattr(returned, "_asdict"):
        return dict(returned._asdict())
    if isinstance(returned, tuple | list) or not hasattr(returned, "__dict__"):
        return None
    return {name: value for name, value in vars(returned).items() if not name.startswith("_")}


def _contents(returned: Any) -> str:
    """What is in a dict, a tuple or an object."""
    named = _named_elements(returned)
    items = enumerate(returned) if named is None else named.items()
    told = [f"{name!r}: {tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__}" for name, x in items]
    return f"{type(returned).__name__} with {', '.join(told) or 'nothing in it'}"


def _joined(text: str, more: str) -> str:
    return more if text == Reading.text else f"{text}; {more}"
