"""Row 2, left: the units in a table that is sorted and filtered, eight rows a page."""

from __future__ import annotations

import operator
import re
from typing import TYPE_CHECKING, Any

import ipywidgets as W
import numpy as np

from unitlab.errors import UnitlabError, nearest_names
from unitlab.views.explorer.messages import as_text, guarded
from unitlab.views.explorer.styled import styled
from unitlab.views.findings import points

if TYPE_CHECKING:
    from unitlab.views.explorer.explorer import Explorer


Array = np.ndarray[Any, Any]

ROWS = 8
NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?"
CONDITION = re.compile(rf"(\w+)\s*(<=|>=|<|>|=)\s*({NUMBER})(?![^\s,])", re.IGNORECASE)
COMPARISONS = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt, "=": operator.eq}
# column → heading, variable, whether the largest come first
COLUMNS: dict[str, tuple[str, str, bool]] = {
    "unit": ("unit", "", False),
    "overall": ("overall (pts)", "overall_drop", True),
    "max": ("max (pts)", "max_class_drop", True),
    "crossfit": ("cross-fit (pts)", "max_class_drop_crossfit", True),
    "p": ("p", "p_specific", False),
    "class": ("most damaged class", "", False),
}
TIPS = {
    "unit": "number of the unit",
    "overall": "overall accuracy drop, points",
    "max": "max class drop, points (biased upward)",
    "crossfit": "cross-fitted max class drop, points",
    "p": "p, specific classes; ● where p ≤ 0.05",
    "class": "the class with the largest drop",
}
HINT = "filter: a class, or p<0.05 max>10"


class UnitsTable:
    """``widget``: headings that sort, rows that choose a unit, a filter and buttons that turn the pages."""

    def __init__(self, explorer: Explorer) -> None:
        self.explorer, self.state = explorer, explorer.state
        self.sorted_by, self.reverse, self.page = "crossfit", True, 0
        self.headings = {name: styled(W.Button, f"ul-column-{name}", tooltip=f"sort by {TIPS[name]}") for name in COLUMNS}
        for name, button in self.headings.items():
            button.on_click(guarded(lambda _, name=name: self.sort(name), explorer.say))
        self.cells = styled(W.HTML)
        self.rows = [styled(W.Button) for _ in range(ROWS)]
        for place, button in enumerate(self.rows):
            button.on_click(guarded(lambda _, place=place: self._row_clicked(place), explorer.say))
        self.filter = styled(W.Text, "ul-filter", placeholder=HINT, tooltip=HINT, continuous_update=False)
        self.filter.observe(guarded(lambda _: self._filter_changed(), self._refused), "value")
        self.back, self.forward = (
            styled(W.Button, "ul-step", description="◀", tooltip="page before"),
            styled(W.Button, "ul-step", description="▶", tooltip="next page"),
        )
        for button, by in ((self.back, -1), (self.forward, 1)):
            button.on_click(guarded(lambda _, by=by: self._turn(by), explorer.say))
        self.where = styled(W.HTML, "ul-caption")
        head = styled(W.HBox, "ul-table-head", list(self.headings.values()))
        body = styled(W.Box, "ul-table-body", [self.cells, styled(W.VBox, "ul-table-buttons", self.rows)])
        foot = styled(W.HBox, "ul-pages", [self.filter, self.back, self.forward, self.where])
        self.widget = styled(W.VBox, "ul-table", [foot, head, body])
        self.order = np.arange(0)
        self._show_study()
        self._name_rows()
        explorer.watch(self._show_study, "study", "measures")
        explorer.watch(self.go_to_unit, "unit")
        explorer.watch(self._name_rows, "unit", "study", "measures", afterwards=True)

    def _show_study(self) -> None:
        self.show()
        self.go_to_unit()

    def sort(self, name: str) -> None:
        """Sort by a column; by the same one again the other way round."""
        self.reverse = not self.reverse if name == self.sorted_by else COLUMNS[name][2]
        self.sorted_by = name
        self.show()
        self._name_rows()

    def _values(self, name: str) -> Array:
        study, variable = self.explorer.study, COLUMNS[name][1]
        if name == "unit":
            return study.units.astype(float)
        if name == "class":
            ranks = np.argsort(np.argsort(np.array(study.names, dtype=str), kind="stable"))
            return np.where(study.max_class >= 0, ranks[study.max_class], np.nan).astype(float)
        return study.values(variable) if variable in study.variables else np.full(len(study.units), np.nan)

    def show(self) -> None:
        """Filter and sort the units, and show the first page."""
        kept = self._filtered()
        self.page = 0
        pending = not self.explorer.study.complete and self.sorted_by in ("crossfit", "p")
        values = self._values("max" if pending else self.sorted_by)[kept]
        key = np.where(np.isnan(values), np.inf, -values if self.reverse else values)
        self.order = kept[np.argsort(key, kind="stable")]
        for name, button in self.headings.items():
            arrow = (" ▾" if self.reverse else " ▴") if name == self.sorted_by else ""
            button.description = COLUMNS[name][0] + arrow
        self._show_page()

    def _filter_changed(self) -> None:
        self.show()
        self._name_rows()

    def _name_rows(self) -> None:
        """Tell those who hear the buttons which units they are; eight messages, sent after what is seen."""
        for button, place in zip(self.rows, self._shown_places(), strict=False):
            button.description = f"unit {self.explorer.study.units[place]}"

    def _shown_places(self) -> Array:
        return self.order[self.page * ROWS : (self.page + 1) * ROWS]

    def _filtered(self) -> Array:
        study = self.explorer.study
        kept = np.ones(len(study.units), bool)
        for name, sign, number in CONDITION.findall(self.filter.value):
            if name not in COLUMNS or name == "class":
                raise UnitlabError(f"the table has no numbers called {name!r}. {nearest_names(name, list(COLUMNS)[:-1])}")
            with np.errstate(invalid="ignore"):
                kept &= COMPARISONS[sign](self._values(name), float(number))
        words = CONDITION.sub("", self.filter.value).strip(" ,").casefold()
        if re.match(rf"({'|'.join(COLUMNS)})\s*[<>=]", words):
            raise UnitlabError(f"{words!r} compares with no number; write conditions like p<0.05 max>10")
        if words:
            named = np.array([words in name.casefold() for name in study.names])
            kept &= (study.max_class >= 0) & named[study.max_class]
        return np.flatnonzero(kept)

    def _refused(self, sentence: str) -> None:
        self.where.value = as_text(sentence)

    def _turn(self, by: int) -> None:
        self.page += by
        self._show_page()
        self._name_rows()

    def _row_clicked(self, place: int) -> None:
        at = self.page * ROWS + place
        if at < len(self.order):
            self.state.unit = int(self.explorer.study.units[self.order[at]])

    def go_to_unit(self) -> None:
        """Show the page that the chosen unit is on, if it passes the filter."""
        found = np.flatnonzero(self.order == self.explorer.study.position(self.state.unit))
        if len(found):
            self.page = int(found[0]) // ROWS
        self._show_page()

    def _show_page(self) -> None:
        study = self.explorer.study
        n_pages = max(1, -(-len(self.order) // ROWS))
        self.page = min(max(self.page, 0), n_pages - 1)
        shown = self._shown_places()
        values = {name: self._values(name)[shown] for name in ("overall", "max", "crossfit", "p")}
        lines = []
        for row, place in enumerate(shown):
            unit = int(study.units[place])
            k = int(study.max_class[place])
            name = as_text(study.names[k]) if k >= 0 else ""
            p = values["p"][row]
            sure = "● " if study.significant[place] else "○ " if study.complete else ""
            cells = [
                str(unit), *(_number(values[column][row]) for column in ("overall", "max", "crossfit")),
                sure + ("…" if np.isnan(p) else f"{p:.2g}"),
            ]  # fmt: skip
            here = ' aria-current="true"' if unit == self.state.unit else ""
            tds = "".join(f"<td>{cell}</td>" for cell in cells) + f'<td title="{name}">{name}</td>'
            lines.append(f"<tr{here}>{tds}</tr>")
        lines += ["<tr><td colspan=6></td></tr>"] * (ROWS - len(shown))
        columns = "".join(f'<col class="ul-column-{name}">' for name in COLUMNS)
        heads = "".join(f'<th scope="col">{heading}</th>' for heading, _, _ in COLUMNS.values())
        self.cells.value = f"<table><colgroup>{columns}</colgroup><thead><tr>{heads}</tr></thead>{''.join(lines)}</table>"
        for row, button in enumerate(self.rows):
            button.disabled = row >= len(shown)
        first = self.page * ROWS
        range_shown = f"{first + 1}–{first + len(shown)} of {len(self.order)}" if len(shown) else "no unit passes the filter"
        self.where.value = as_text(range_shown)
        self.back.disabled, self.forward.disabled = self.page == 0, self.page >= n_pages - 1


def _number(value: float) -> str:
    return "…" if np.isnan(value) else points(value / 100)
