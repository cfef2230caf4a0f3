"""Every example in the documentation of a public name runs and shows what it says."""

from __future__ import annotations

import doctest
import inspect

import pytest

import unitlab

FUNCTIONS = {name: getattr(unitlab, name) for name in unitlab.__all__ if inspect.isfunction(getattr(unitlab, name))}
for module in ("concepts", "plots"):
    inside = getattr(unitlab, module)
    FUNCTIONS |= {f"{module}.{name}": getattr(inside, name) for name in inside.__all__}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_example_runs(name: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("example"))
    (example,) = doctest.DocTestFinder(recurse=False).find(FUNCTIONS[name], name, globs={})
    assert example.examples, f"unitlab.{name} shows no example"
    told: list[str] = []
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    failed, tried = doctest.DocTestRunner(verbose=False, optionflags=options).run(example, out=told.append)
    assert not failed and tried, "".join(told)
