"""The explorer: one state, the views that follow it, and what passes between them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ipywidgets as W
import xarray as xr

from unitlab.analysis.attributes import own_attributes
from unitlab.analysis.correlations import chosen
from unitlab.errors import UnitlabError, nearest_names
from unitlab.views.explorer.classes_plot import ClassesPlot
from unitlab.views.explorer.figures import sent_together
from unitlab.views.explorer.header import Header
from unitlab.views.explorer.images_view import ImagesView
from unitlab.views.explorer.measured_study import MeasuredStudy
from unitlab.views.explorer.measuring import measure_beside
from unitlab.views.explorer.messages import as_text, guarded, message_html
from unitlab.views.explorer.opened_studies import OpenedStudies
from unitlab.views.explorer.opening import StudySource
from unitlab.views.explorer.state import ExplorerState, GroupHistory
from unitlab.views.explorer.style import STYLE
from unitlab.views.explorer.styled import styled
from unitlab.views.explorer.tab_panel import TabPanel
from unitlab.views.explorer.units_plot import UnitsPlot
from unitlab.views.explorer.units_table import UnitsTable

DEFAULT_X = "overall_drop"


@dataclass
class _Watcher:
    call: Callable[[], None]
    names: frozenset[str]
    owner: str  # title of the tab that watches, empty for a view above the fold
    afterwards: bool = False
    missed: bool = False


class Explorer(W.VBox):
    """The explorer of one study, shown by being the last expression of a cell.

    ``state`` (`ExplorerState`) holds what is chosen: set a trait, and the views follow. ``study`` is the `MeasuredStudy` of
    the layer and ablation that are open. ``code()`` gives the line of Python that restores the view.
    """

    def __init__(self, source: StudySource, study: MeasuredStudy, state: ExplorerState, *, follow_y: bool = True) -> None:
        # the vertical axis changes to the cross-fitted maximum when that is known, unless it was asked for
        self._follow_y = follow_y
        self.study, self.state = study, state
        self.groups = GroupHistory(state)
        self._watchers: list[_Watcher] = []
        self._owner = ""
        self._changed: set[str] | None = None
        self.opened = OpenedStudies(source, study)
        state.study = self.opened.name
        self._said = styled(W.HTML, "ul-message", layout=W.Layout(display="none"))
        self._status = styled(W.HTML, "ul-status")
        self.header = Header(self)
        self.units, self.classes = UnitsPlot(self), ClassesPlot(self)
        self.images, self.table = ImagesView(self), UnitsTable(self)
        self.tabs = TabPanel(self)
        self.watch(self._announce, "unit", "category", "selection", "study", "measures", "x", "y")
        self.state.observe(self._state_changed)
        plots, details = (
            styled(W.HBox, "ul-row", [left.widget, right.widget])
            for left, right in ((self.units, self.classes), (self.table, self.images))
        )
        rows = [self.header.widget, self._said, plots, details, self._status, self.tabs.widget]
        super().__init__([styled(W.HTML, value=STYLE), *rows], _dom_classes=["ul-explorer"])
        self._measure()
        self._announce()

    def _repr_mimebundle_(self, **options: Any) -> Any:
        for figure in (self.units.figure, self.classes.figure):
            figure.renew()
        return super()._repr_mimebundle_(**options)

    def watch(self, call: Callable[[], None], *names: str, afterwards: bool = False) -> None:
        """Have ``call()`` made when one of ``names`` changes: traits of the state, "study" (another layer or ablation is
        open), "measures" (tests and cross-fitted drops have arrived). Its errors are shown as a message. What takes long is
        called ``afterwards``, one after the other, while the page already paints the rest."""
        self._watchers.append(_Watcher(guarded(call, self.say), frozenset(names), self._owner, afterwards))

    @contextmanager
    def watching_for(self, title: str) -> Iterator[None]:
        """What is watched inside belongs to the tab of this title."""
        self._owner = title
        try:
            yield
        finally:
            self._owner = ""

    def forget(self, title: str) -> None:
        """Drop what a tab watches."""
        self._watchers = [watcher for watcher in self._watchers if watcher.owner != title]

    def catch_up(self, title: str) -> None:
        """Make the calls that a tab missed while another one was open."""
        for watcher in [watcher for watcher in self._watchers if watcher.owner == title and watcher.missed]:
            watcher.missed = False
            watcher.call()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Changes of the state inside are told to the views once, at the end."""
        if self._changed is not None:
            yield
            return
        self._changed = set()
        try:
            yield
        finally:
            changed, self._changed = self._changed, None
            self._tell(changed)

    def say(self, sentence: str) -> None:
        """Show a sentence above the views, with the command that helps; an empty one takes it away."""
        self._said.value = message_html(sentence, self.source.remedy()) if sentence else ""
        self._said.layout.display = None if sentence else "none"

    def code(self) -> str:
        """One line of Python that restores the view.

        Examples
        --------
        >>> import unitlab
        >>> unitlab.explore("vgg_fashion", unit=3).code()
        "unitlab.explore('vgg_fashion', unit=3)"
        """
        state, default = self.state, self.study
        given = [self.source.code()]
        named = self.source.given
        if isinstance(named, xr.Dataset) or (state.layer, state.ablation) != self.opened.first(state.study):
            in_hand = self.source.path is None or bool(own_attributes(self.study.ds))
            what = "ds" if in_hand else f"unitlab.load({given[0]}, {state.layer!r}, {state.ablation!r})"
            given = [what]
        given.append(f"unit={state.unit}")
        if state.category:
            given.append(f"category={state.category!r}")
        defaults = {"x": DEFAULT_X, "y": default.default_y, "color": ""}
        given += [f"{name}={getattr(state, name)!r}" for name, usual in defaults.items() if getattr(state, name) != usual]
        if state.selection:
            given.append(f"selection={state.selection!r}")
        return f"unitlab.explore({', '.join(given)})"

    @property
    def source(self) -> StudySource:
        """Where the open study comes from."""
        return self.opened.source(self.opened.name)

    def _state_changed(self, change: Any) -> None:
        with self.together():
            assert self._changed is not None
            self._changed.add(change.name)
            if change.name == "study":
                guarded(self._open_study, self.say)()
            elif change.name in ("layer", "ablation"):
                guarded(self._open_layer, self.say)()

    def _tell(self, changed: Iterable[str]) -> None:
        changed = set(changed)
        if changed & {"unit", "study"}:
            self.say("")
        if "study" in changed:
            self.groups.forget()
        concerned = [watcher for watcher in self._watchers if watcher.names & changed]
        at_once, later = ([one for one in concerned if one.afterwards == when] for when in (False, True))
        for some in (at_once, *([one] for one in later)):
            with sent_together([*self.children[1:-1]]):
                for watcher in some:
                    self._call(watcher)

    def _call(self, watcher: _Watcher) -> None:
        if watcher.owner and watcher.owner != self.tabs.open_title:
            watcher.missed = True
        else:
            watcher.call()

    def _open_study(self) -> None:
        """Open the study that the state names, as it opens by itself; stay where we are if that fails."""
        name = self.state.study
        if name == self.opened.name:
            return
        assert self._changed is not None
        try:
            study = self.opened.another(name)
        except Exception:
            self.state.study = self.opened.name
            self._changed.discard("study")
            raise
        self.opened.name = name
        self._show(study)
        self.state.layer, self.state.ablation = study.layer, study.ablation
        self.state.unit, self.state.selection = study.worst_unit, ()

    def _open_layer(self) -> None:
        """Open the layer and ablation that the state names; stay where we are if that fails."""
        wanted = (self.state.layer, self.state.ablation)
        if wanted == (self.study.layer, self.study.ablation):
            return
        try:
            study = self.opened.layer(self.opened.name, *wanted)
        except Exception:
            self.state.layer, self.state.ablation = self.study.layer, self.study.ablation
            raise
        self._show(study)

    def _show(self, study: MeasuredStudy) -> None:
        self.study = study
        assert self._changed is not None
        self._changed.add("study")
        self._measure()
        _keep_valid(self.state, study, self._follow_y)

    def _measure(self) -> None:
        study = self.study
        if study.complete:
            return

        def done(result: Callable[[], xr.Dataset]) -> None:
            try:
                measures = result()
            except BrokenProcessPool:
                measures = None  # no second process here: the kernel does it
            study.finish(measures)
            if study is self.study:
                with self.together():
                    self._now_complete()

        if not measure_beside(study, self.source, guarded(done, self.say)):
            study.finish()
            with self.together():
                self._now_complete()

    def _now_complete(self) -> None:
        assert self._changed is not None
        self._changed.add("measures")
        if self._follow_y and self.state.y == "max_class_drop":
            self.state.y = self.study.default_y

    def _announce(self) -> None:
        """The line that screen readers follow."""
        state, study = self.state, self.study
        parts = [f"unit {state.unit} of {len(study.units)} in {state.layer}: {self.units.position_of_unit()}"]
        if state.category:
            parts.append(f"class {state.category}")
        if state.selection:
            parts.append(f"{len(state.selection)} units in the group")
        if not study.complete:
            parts.append("tests and cross-fitted drops are being computed")
        self._status.value = f'<div role="status" aria-live="polite">{as_text("; ".join(parts))}</div>'


def opened_explorer(
    ds_or_name: Any, unit: int | None, category: str | None, x: str | None, y: str | None, color: str | None,
    selection: Iterable[int],
) -> Explorer:  # fmt: skip
    """What `unitlab.explore` gives."""
    source, ds = StudySource.of(ds_or_name)
    study = MeasuredStudy(ds)
    for name in (x, y, color):
        if name is not None:
            _require_variable(study, name)
    if category is not None and category not in study.names:
        raise UnitlabError(f"the study has no class {category!r}. {nearest_names(category, study.names)}")
    group = tuple(int(study.units[study.position(one)]) for one in selection)
    first = study.worst_unit if unit is None else unit
    study.position(first)
    state = ExplorerState(
        study=source.name, layer=study.layer, ablation=study.ablation, unit=first, category=category or "",
        x=x or DEFAULT_X, y=y or study.default_y, color=color or "", selection=group,
    )  # fmt: skip
    return Explorer(source, study, state, follow_y=y is None)


def _require_variable(study: MeasuredStudy, name: str) -> None:
    """Refuse what is no variable over units; one that takes long to compute may come later."""
    if name not in study.variables and study.is_quick:
        study.finish()
    if study.complete or not study.is_awaited(name):
        chosen(study.measures, [name], [("unit",)])


def _keep_valid(state: ExplorerState, study: MeasuredStudy, follow_y: bool) -> None:
    """Another layer has other units and may lack a variable; another study has other classes."""
    units = set(study.units.tolist())
    if state.unit not in units:
        state.unit = int(study.units[0])
    state.selection = tuple(unit for unit in state.selection if unit in units)
    if state.category not in study.names:
        state.category = ""
    if follow_y and state.y in ("max_class_drop", "max_class_drop_crossfit"):
        state.y = study.default_y
