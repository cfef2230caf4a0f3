"""The explorer of a study in a notebook cell: ipywidgets around Bokeh figures, all over one state."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unitlab.views.kernel import running_kernel

if TYPE_CHECKING:
    from unitlab.views.explorer.explorer import Explorer

__all__ = ["explore"]


def explore(
    ds_or_name: Any,
    *,
    unit: int | None = None,
    category: str | None = None,
    x: str | None = None,
    y: str | None = None,
    color: str | None = None,
    selection: Iterable[int] = (),
) -> Explorer:
    """Look at a study: every unit at a glance, and what one unit's ablation costs which classes.

    Parameters
    ----------
    ds_or_name
        A name that `unitlab.studies` lists, the path of a store, or a dataset of `unitlab.load` or `unitlab.ablate`.
    unit
        Number of the unit to start with; default the one with the largest max class drop.
    category
        Name of the class to start with.
    x, y, color
        Variables over ``unit`` of `unitlab.attributes` or `unitlab.damage`, or numbers of your own that the dataset was given
        by ``ds.assign(score=("unit", values))``, for the axes and the colour of the units; default the overall drop against
        the cross-fitted max class drop, no colour.
    selection
        Numbers of the units of the group.

    Returns
    -------
    Explorer
        An ipywidget; as the last expression of a cell it shows itself. ``.state`` holds what is chosen, ``.code()`` gives
        the line that restores the view.

    Raises
    ------
    UnitlabError
        No such study, unit, class or variable (the nearest names are suggested).

    Examples
    --------
    >>> import unitlab
    >>> explorer = unitlab.explore("vgg_fashion", unit=3)
    >>> explorer.state.unit
    3
    """
    with _shown_meanwhile(ds_or_name), _uncollected():
        # the page reads the scripts of widgets and BokehJS while Python imports the rest
        from unitlab.views.explorer.styled import open_shared

        open_shared()
        from unitlab.views.bokeh_loading import load_bokeh

        load_bokeh()
        from unitlab.views.explorer.explorer import opened_explorer

        return opened_explorer(ds_or_name, unit, category, x, y, color, selection)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without garbage collection, which goes through all that is imported again and again: 0.2 to 0.3 s of an opening."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():
            # what came goes to the oldest generation; as the youngest it would be gone through before it is shown
            gc.freeze()
            gc.unfreeze()
        if collecting:
            gc.enable()


def _shown_meanwhile(ds_or_name: Any) -> AbstractContextManager[None]:
    """A skeleton where the first explorer opens, which imports for a second and more."""
    if running_kernel() is None or f"{__name__}.explorer" in sys.modules:
        return nullcontext()
    from unitlab.views.explorer.skeleton import skeleton

    return skeleton(str(ds_or_name) if isinstance(ds_or_name, str | Path) else "the study")
