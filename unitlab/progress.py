"""Bars that say how far a computation is, where it takes more than two seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

Step = TypeVar("Step")

DELAY = 2.0  # seconds without a bar


def shown_progress(steps: Sequence[Step], what: str, shown: bool, unit: str = "it") -> Iterable[Step]:
    """``steps`` with a progress bar, once they take more than two seconds."""
    from tqdm.auto import tqdm

    return tqdm(steps, desc=what, unit=unit, delay=DELAY, disable=not shown)


@contextmanager
def stages(what: str, count: int, shown: bool) -> Iterator[Callable[[str], None]]:
    """A bar over so many parts of a computation; the function is called with the name of each as it begins."""
    from tqdm.auto import tqdm

    bar: tqdm[Any]
    with tqdm(total=count, desc=what, delay=DELAY, leave=False, disable=not shown) as bar:
        begun = 0

        def begin(name: str) -> None:
            nonlocal begun
            bar.set_postfix_str(name, refresh=False)
            bar.update(min(begun, 1))
            begun += 1

        yield begin
        bar.update(count - bar.n)
