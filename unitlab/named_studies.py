"""Public calls take a study's name, path or address wherever they take its dataset: it is opened here, and nowhere else."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, Union, overload

if TYPE_CHECKING:
    import xarray as xr

P = ParamSpec("P")
R = TypeVar("R")
Study = Union["xr.Dataset", str, Path]
# annotations of parameters that are studies; where a text has a meaning of its own, it is left alone
STUDIES = {
    "xr.Dataset", "xr.Dataset | None", "xr.Dataset | Sequence[xr.Dataset]", "Mapping[str, xr.Dataset]",
}  # fmt: skip


@overload
def takes_names(
    function: Callable[Concatenate[xr.Dataset, xr.Dataset, P], R],
) -> Callable[Concatenate[Study, Study, P], R]: ...
@overload
def takes_names(function: Callable[Concatenate[xr.Dataset, P], R]) -> Callable[Concatenate[Study, P], R]: ...
@overload
def takes_names(
    function: Callable[Concatenate[Mapping[str, xr.Dataset], P], R],
) -> Callable[Concatenate[Mapping[str, Study], P], R]: ...
def takes_names(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` for which `unitlab.load` opens names, paths and addresses that are given as its studies."""
    parameters = inspect.signature(function).parameters
    names = list(parameters)
    studies = {name for name in names if parameters[name].annotation in STUDIES}
    if not studies:
        return function

    @functools.wraps(function)
    def call(*given: Any, **by_name: Any) -> Any:
        opened = [_opened(value) if name in studies else value for name, value in zip(names, given, strict=False)]
        by_name = {name: _opened(value) if name in studies else value for name, value in by_name.items()}
        return function(*opened, *given[len(names) :], **by_name)

    return call


def _opened(study: Any) -> Any:
    if isinstance(study, str | Path):
        from unitlab.catalog import load

        return load(study)
    if isinstance(study, dict):
        return {name: _opened(one) for name, one in study.items()}
    if isinstance(study, list | tuple):
        return [_opened(one) for one in study]
    return study
