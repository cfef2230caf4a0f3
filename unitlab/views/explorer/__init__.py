"""The explorer of a study in a notebook cell: an anywidget around the page that the report has, too."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unitlab.views.explorer.explorer import Explorer

__all__ = ["explore"]


def explore(  # noqa: PLR0913
    ds_or_name: Any,
    *,
    unit: int | None = None,
    category: str | None = None,
    x: str | None = None,
    y: str | None = None,
    color: str | None = None,
    selection: Iterable[int] = (),
    line: bool = False,
    image_style: str = "outline",
    image_strength: float = 0.5,
) -> Explorer:
    """Look at a study: every unit at a glance, and what one unit's ablation costs which classes.

    Parameters
    ----------
    ds_or_name
        A name that `unitlab.studies` lists, the path of a store, or a dataset of `unitlab.load` or `unitlab.ablate`.
    unit
        Number of the unit to start with; default the one of the largest lower limit of a drop, that of ``category`` if given.
    category
        Name of the class to start with.
    x, y, color
        Variables over ``unit`` of `unitlab.attributes` or `unitlab.damage`, or numbers of your own that the dataset was given
        by ``ds.assign(score=("unit", values))``, for the axes and the colour of the units; default the overall drop against
        the cross-fitted max class drop, or against the drop of ``category``; no colour.
    selection
        Numbers of the units of the group.
    line
        Whether the fitted line with its band is drawn.
    image_style, image_strength
        How the activation map lies over the pictures, "outline", "heat" or "none"; half the multiple of the unit's own
        threshold (what it exceeds somewhere on 10 % of the images; 0.5 is that threshold), or opacity of the heat, 0 to 1.

    Returns
    -------
    Explorer
        A widget; as the last expression of a cell it shows itself. Its traits (``unit``, ``category``, ``layer``,
        ``ablation``, ``group``, ``x``, ``y``, ``color`` …) say what is chosen and can be set and observed; ``.code()`` gives
        the line that restores the view.

    Raises
    ------
    UnitlabError
        No such study, unit, class or variable (the nearest names are suggested).

    Examples
    --------
    >>> import unitlab
    >>> explorer = unitlab.explore("vgg_fashion", unit=3)
    >>> explorer.unit
    3
    """
    with _uncollected():
        # the page reads what shows widgets, and the module of all explorers, while Python imports the rest
        from unitlab.views.explorer.cells import make_ready

        make_ready()
        from unitlab.views.explorer.explorer import Explorer

        return Explorer(
            ds_or_name, unit=unit, category=category, x=x, y=y, color=color, group=tuple(selection), line=line,
            image_style=image_style, image_strength=image_strength,
        )  # fmt: skip


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
