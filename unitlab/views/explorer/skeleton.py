"""What stands in a cell until the explorer does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from IPython.display import HTML, display

from unitlab.views.explorer.messages import message_html
from unitlab.views.explorer.style import STYLE

FIGURE, TABLE = '<div class="ul-ghost-figure"></div>', '<div class="ul-ghost-table"></div>'
IMAGES = f'<div class="ul-ghost-images">{"<i></i>" * 12}</div>'


@contextmanager
def skeleton(name: str) -> Iterator[None]:
    """Show the outline of the explorer in the cell that runs, as long as the body takes."""
    rows = "".join(f'<div class="ul-row">{left}{right}</div>' for left, right in ((FIGURE, FIGURE), (TABLE, IMAGES)))
    said = f'<div class="ul-message">{message_html(f"Opening {name} …")}</div>'
    place = display(HTML(f'{STYLE}<div class="ul-explorer ul-waiting">{said}{rows}</div>'), display_id=True)
    try:
        yield
    finally:
        place.update(HTML(""))
