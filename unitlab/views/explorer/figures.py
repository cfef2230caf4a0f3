"""Figures of the explorer: transparent, in the colours of the page, and as wide as their place."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import ipywidgets as W
from bokeh.core.json_encoder import serialize_json
from bokeh.core.serialization import Serializer
from bokeh.document import Document
from bokeh.models import ColumnDataSource, CustomJS, Grid, LinearAxis, Plot, Range1d, Tool
from bokeh.models.glyph import Glyph
from bokeh.models.renderers import GlyphRenderer
from bokeh.util.serialization import make_id
from jupyter_bokeh import BokehModel

from unitlab.views.explorer.messages import as_text

LABELS = "11px"
# text keeps the colour that it was laid out with, and glyphs take none from the style sheet
FOLLOW_THEME = """
const follow = () => {
  const dark = document.body.dataset.jpThemeLight === "false";
  for (const glyph of inked) glyph.line_color = dark ? "#f0f0f0" : "#1a1a1a";
  for (const part of [...plot.left, ...plot.below, ...plot.center]) part.change.emit();
};
const settled = () => { follow(); setTimeout(follow, 300); setTimeout(follow, 1500); };
new MutationObserver(settled).observe(document.body, {attributes: true, attributeFilter: ["data-jp-theme-light"]});
follow();
"""
# jupyter_bokeh sends what came from the kernel back to it: six messages a click, each of which makes it busy and idle again
NO_ECHO = """
const page = plot.document, tell = page._trigger_on_change.bind(page);
page._trigger_on_change = (event) => { if (event.sync !== false) tell(event); };
"""

# the box hangs on the page itself, in a tree of its own, which hears of JupyterLab's variables alone
HOVER_STYLE = """<style>
:host { background: var(--jp-layout-color1, #fff) !important; color: var(--jp-ui-font-color1, #212121) !important;
  border-color: var(--jp-border-color1, #bdbdbd) !important; border-radius: 3px; opacity: 1 !important; }
.bk-arrow { display: none; }
dl { display: grid; grid-template-columns: auto minmax(0, auto); gap: 1px 8px; margin: 0 0 4px; max-width: 300px;
  font-size: 11px; }
dt { color: var(--jp-ui-font-color2, #616161); white-space: nowrap; }
dt:first-of-type, dd:first-of-type { font-weight: 600; color: inherit; }
dd { margin: 0; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; font-variant-numeric: tabular-nums; }
</style>"""


def hover_text(rows: Iterable[tuple[str, str]]) -> str:
    """The box at the pointer: labels beside columns (``@name``, whose values Bokeh escapes), in the colours of the page."""
    lines = "".join(f"<dt>{as_text(label)}</dt><dd>{value}</dd>" for label, value in rows)
    return f"<div>{HOVER_STYLE}<dl>{lines}</dl></div>"


class _Figure(Plot):
    """What the page takes for a figure of ``bokeh.plotting``, without the 0.1 s that Python needs to import that."""

    __qualified_model__ = "Figure"


def bare_figure(name: str, height: int, tools: Iterable[Tool] = (), **options: Any) -> Plot:
    """A figure of this name with ranges to be set; the style sheet gives the colours of text and lines."""
    plot = _Figure(
        name=name,
        height=height,
        sizing_mode="stretch_width",
        x_range=Range1d(start=0, end=1),
        y_range=Range1d(start=0, end=1),
        title=None,
        output_backend="canvas",
        background_fill_alpha=0,
        border_fill_alpha=0,
        outline_line_alpha=0,
        **options,
    )
    look: dict[str, Any] = {"minor_tick_line_alpha": 0, "major_tick_in": 0, "axis_label_text_font_style": "normal"}
    look.update({f"{text}_text_font_size": LABELS for text in ("axis_label", "major_label")})
    across, up = LinearAxis(**look), LinearAxis(**look)
    plot.add_layout(across, "below")
    plot.add_layout(up, "left")
    plot.add_layout(Grid(dimension=0, axis=across))
    plot.add_layout(Grid(dimension=1, axis=up))
    plot.toolbar.logo = None
    plot.add_tools(*tools)
    return plot


def drawn(plot: Plot, source: ColumnDataSource, glyph: Glyph, **options: Any) -> GlyphRenderer:
    """The renderer of a glyph, which looks the same chosen or not.

    The methods of ``bokeh.plotting`` make three more glyphs for each, for looks that nothing here has, and double what is sent.
    """
    return plot.add_glyph(source, glyph, selection_glyph=None, nonselection_glyph=None, muted_glyph=None, **options)


class FigureWidget(BokehModel):
    """A figure inside a widget layout; ``inked`` glyphs are drawn dark on light pages and light on dark ones.

    The page is given the figure as it is when it asks, not as it was at first. Changes inside `together` go to the page in
    one message, with their numbers in it: a page takes longer for a message than for what is in it.
    """

    _gathered: list[Any] | None = None

    def __init__(self, plot: Plot, inked: Iterable[Any] = (), layout: W.Layout | None = None) -> None:
        document = Document()
        document.add_root(plot)
        document.js_on_event("document_ready", CustomJS(args={"plot": plot}, code=NO_ECHO))
        document.js_on_event("document_ready", CustomJS(args={"plot": plot, "inked": list(inked)}, code=FOLLOW_THEME))
        super().__init__(
            plot,
            combine_events=True,
            layout=layout or {"width": "100%", "height": f"{plot.height}px"},
            _dom_classes=["ul-figure"],
        )
        self.changed = False
        self._model.document.on_change(self._note_change)

    def update_from_model(self, model: Any) -> None:
        # the bundle is made in `get_state`, which opening the widget asks for
        self._model = model
        model.document.on_change_dispatch_to(self)

    def close(self) -> None:
        # Python closes a widget once more when it is collected, which jupyter_bokeh does not expect
        if self.comm is not None:
            super().close()

    def _note_change(self, _event: Any) -> None:
        self.changed = True

    @contextmanager
    def together(self) -> Iterator[None]:
        """Changes inside are sent at the end."""
        document = self._model.document
        document.hold("combine")
        try:
            yield
        finally:
            self._gathered = []
            document.unhold()
            changes, self._gathered = self._gathered, None
            self._send_patch(changes)

    def _document_patched(self, event: Any) -> None:
        if event.setter is self:
            return
        if self._gathered is None:
            self._send_patch([event])
        else:
            self._gathered.append(event)

    def _send_patch(self, events: list[Any]) -> None:
        if not events:
            return
        models = self._model.document.models
        serializer = Serializer(references=models.synced_references, deferred=False)
        content = serialize_json({"events": serializer.encode(events)})
        models.flush_synced(lambda model: not serializer.has_ref(model))
        header = json.dumps({"msgid": make_id(), "msgtype": "PATCH-DOC"})
        for part in (header, "{}", content):
            self.send({"msg": "patch", "payload": part})

    def get_state(self, key: Any = None, drop_defaults: bool = False) -> Any:
        if key is None:
            # what a reloaded page is given
            with self.hold_trait_notifications():
                self._trait_values["render_bundle"] = self._model_to_traits(self._model)
        return super().get_state(key, drop_defaults)

    def renew(self) -> None:
        """Before another view is shown: a view starts from the bundle, and hears only of later changes."""
        if self.changed:
            self.render_bundle = self._model_to_traits(self._model)
            self.changed = False


@contextmanager
def sent_together(widgets: Iterable[W.Widget]) -> Iterator[None]:
    """What changes inside in these widgets and theirs is sent at the end in one go, figures last: the page paints a figure
    before it reads what follows."""
    found, waiting = [], list(widgets)
    while waiting:
        found.append(waiting.pop())
        waiting += getattr(found[-1], "children", ())
    found.sort(key=lambda widget: not isinstance(widget, FigureWidget))  # what is entered first is left last
    with ExitStack() as sent:
        for widget in found:
            sent.enter_context(widget.together() if isinstance(widget, FigureWidget) else widget.hold_sync())
        yield


def describe_figure(plot: Plot, text: str) -> None:
    """Text in place of the picture, for those who do not see it."""
    plot.html_attributes = {"role": "img", "aria-label": text}


def set_range(axis: Any, low: float, high: float, margin: float = 0.06) -> None:
    """Show ``low`` to ``high`` with a margin on both sides."""
    room = (high - low) * margin or max(abs(high), 1.0) * margin
    axis.update(start=low - room, end=high + room, reset_start=low - room, reset_end=high + room)
