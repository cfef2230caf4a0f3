"""Group: units collected by lasso or one by one, and what silencing them together costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ipywidgets as W
import numpy as np
import xarray as xr

from unitlab.analysis import ALPHA
from unitlab.analysis.requirements import units_in
from unitlab.views.explorer.background import BackgroundWork, Progress
from unitlab.views.explorer.downloads import copy_button
from unitlab.views.explorer.live_network import LiveNetwork, NotAtHand
from unitlab.views.explorer.messages import as_text, guarded, message_html
from unitlab.views.explorer.styled import styled
from unitlab.views.explorer.tab_page import tab_page
from unitlab.views.findings import decimal, probability

if TYPE_CHECKING:
    from unitlab.views.explorer.explorer import Explorer


Array = np.ndarray[Any, Any]

MOST_CLASSES = 12


@dataclass(frozen=True)
class JointDamage:
    """What silencing a group costs, in points: ``drop``, ``low``, ``high``, ``q`` over classes, and the overall drop."""

    drop: Array
    low: Array
    high: Array
    q: Array
    overall: float
    lost: int
    won: int

    @classmethod
    def of(cls, found: xr.Dataset, place: int = 0) -> JointDamage:
        """From one row of `unitlab.damage`."""
        row = found.isel(unit=place)
        drop, low, high = (100 * row[name].values for name in ("accuracy_drop", "drop_low", "drop_high"))
        return cls(
            drop, low, high, row["q_value"].values, 100 * float(row["overall_drop"]),
            int(row["n_broken"].sum()), int(row["n_fixed"].sum()),
        )  # fmt: skip


class Group:
    """``widget``: the units as text that can be edited, what they cost one at a time and together, and the set as code."""

    def __init__(self, explorer: Explorer) -> None:
        self.explorer, self.state = explorer, explorer.state
        self.known: dict[frozenset[int], JointDamage] = {}
        self._last = tuple(self.state.selection)
        self.units = styled(
            W.Text, "ul-group-units", description="Units", placeholder="lasso points above, or type 3, 5, 10-20",
            continuous_update=False, layout=W.Layout(flex="1 1 220px"),
        )  # fmt: skip
        self.add, self.undo, self.clear, self.measure = (
            styled(W.Button, classes, description=text, tooltip=tip, layout=W.Layout(width="auto"))
            for text, tip, classes in (
                ("Add", "add the open unit to the group, or take it out", ""),
                ("Undo", "back to the group before", ""),
                ("Clear", "empty the group", ""),
                ("Silence them together", "run the network with all units of the group silenced", "ul-measure-group"),
            )
        )
        self.work = BackgroundWork()
        self.sentence, self.table = styled(W.HTML, "ul-sentence"), styled(W.HTML, "ul-group-classes")
        self.said, self.code = styled(W.HTML), styled(W.HTML)
        for button, call in (
            (self.add, self._toggle), (self.undo, self._undo), (self.clear, self._clear), (self.measure, self._measure),
        ):  # fmt: skip
            button.on_click(guarded(lambda _, call=call: call(), self._failed))
        self.units.observe(guarded(self._typed, self._failed), "value")
        controls, live = (
            styled(W.HBox, "ul-line", parts)
            for parts in ([self.units, self.add, self.undo, self.clear], [self.measure, self.work.widget])
        )
        self.widget = tab_page(controls, self.sentence, live, self.said, self.table, self.code)
        self.show = guarded(self._show, self._failed)
        self.show()
        explorer.watch(self.show, "selection", "measures", "category")
        explorer.watch(guarded(self._show_add, self._failed), "unit")

    def _failed(self, sentence: str, command: str = "") -> None:
        self.said.value = f'<div class="ul-message">{message_html(sentence, command)}</div>'

    def _toggle(self) -> None:
        unit, group = self.state.unit, self.state.selection
        self.state.selection = tuple(u for u in group if u != unit) if unit in group else (*group, unit)

    def _undo(self) -> None:
        self.explorer.groups.undo()
        self.undo.disabled = not self.explorer.groups.before

    def _clear(self) -> None:
        self.state.selection = ()

    def _typed(self, change: Any) -> None:
        text = change.new.strip()
        if text == _written(self.state.selection):
            return
        try:
            units = units_in(text, "the group") if text else []
            for unit in units:
                self.explorer.study.position(unit)
        except Exception:
            self.units.value = _written(self.state.selection)
            raise
        self.said.value = ""
        self.state.selection = tuple(dict.fromkeys(units))

    def _show(self) -> None:
        study, group = self.explorer.study, tuple(self.state.selection)
        if group != self._last:
            self.work.stop()
            self._last = group
        self.units.value, self.said.value = _written(group), ""
        self._show_add()
        self.undo.disabled, self.clear.disabled = not self.explorer.groups.before, not group
        self.measure.layout.display = "none"
        if not group:
            self.sentence.value = "<p>The group is empty: lasso points above, add the open unit, or type numbers.</p>"
            self.table.value = self.code.value = ""
            return
        self.code.value = (
            f'<div><code class="ul-code" aria-label="the group as code">units = {list(group)}\n'
            f"unitlab.ablate_groups(model, images, {as_text(repr(study.layer))}, [units])</code> {copy_button()}</div>"
        )
        joint = self._joint(group)
        places = [study.position(unit) for unit in group]
        single = study.drops["accuracy_drop"][places]
        summed = float(study.values("overall_drop")[places].sum())
        self._show_classes(single.sum(0), joint, len(group))
        units = f"unit {group[0]} costs" if len(group) == 1 else f"the {len(group)} units cost"
        one_by_one = (
            f"One at a time, {units} <b>{decimal(summed)}</b> points of overall accuracy{'' if len(group) == 1 else ' in sum'}"
        )
        if joint is not None:
            together = f"silenced together <b>{decimal(joint.overall)}</b> ({joint.lost:,} images lost, {joint.won:,} won)"
            self.sentence.value = f"<p>{one_by_one}; {together}.</p>"
            return
        self.sentence.value = f"<p>{one_by_one}.</p>"
        if len(group) == 1:
            return
        try:
            LiveNetwork(study.ds)
        except NotAtHand as missing:
            self._failed(f"What they cost together, the study does not hold. {missing}", missing.command)
            return
        self.measure.layout.display = None

    def _joint(self, group: tuple[int, ...]) -> JointDamage | None:
        """From the study (a single unit), or from a run of this session."""
        study = self.explorer.study
        if len(group) == 1 and study.complete:
            return JointDamage.of(study.measures, study.position(group[0]))
        return self.known.get(frozenset(group))

    def _show_add(self) -> None:
        inside = self.state.unit in self.state.selection
        self.add.description = f"Remove unit {self.state.unit}" if inside else f"Add unit {self.state.unit}"

    def _measure(self) -> None:
        group = tuple(self.state.selection)
        live = LiveNetwork(self.explorer.study.ds)
        self.measure.layout.display, self.said.value = "none", ""

        def work(progress: Progress) -> JointDamage:
            return JointDamage.of(live.together(group, progress))

        def done(found: JointDamage) -> None:
            self.known[frozenset(group)] = found
            self.show()

        def failed(sentence: str) -> None:
            self.measure.layout.display = None
            self._failed(sentence)

        self.work.start(f"Silencing {len(group)} units together …", work, done, failed)

    def _show_classes(self, summed: Array, joint: JointDamage | None, count: int) -> None:
        study = self.explorer.study
        by = summed if joint is None else joint.drop
        some = np.flatnonzero(np.isfinite(by))
        order = some[np.argsort(-by[some], kind="stable")][:MOST_CLASSES]
        if self.state.category and (k := study.category_position(self.state.category)) in some and k not in order:
            order = np.append(order, k)
        values = [summed[order], *([] if joint is None else [joint.drop[order], joint.low[order], joint.high[order]])]
        ends = np.nan_to_num(np.concatenate([*values, [0.0]]))
        axis = _Axis(float(ends.min()), float(ends.max()))
        rows = "".join(self._row(int(k), float(summed[k]), joint, axis) for k in order)
        together = '<th scope="col">together, points (95 %)</th>' if joint is not None else ""
        legend = "Upper bar: the single drops in sum; lower bar: all of them together, filled where q ≤ 0.05."
        if joint is None:
            legend = "Bars: the single drops in sum. What the units cost together is not known yet."
        self.table.value = (
            f'<table class="ul-bars ul-group-table"><thead><tr><th scope="col">most damaged classes (images)</th><th></th>'
            f'<th scope="col">single drops in sum</th>{together}</tr></thead><tbody>{rows}</tbody></table>'
            f'<p class="ul-faint">{legend}</p>'
        )

    def _row(self, k: int, summed: float, joint: JointDamage | None, axis: _Axis) -> str:
        study = self.explorer.study
        bars, cells = axis.bar(summed, 3 if joint is not None else 8, "ul-bar-sum", filled=False), f"<td>{decimal(summed)}</td>"
        if joint is not None:
            q = float(joint.q[k])
            bars += axis.bar(float(joint.drop[k]), 13, "ul-bar-lost" if joint.drop[k] >= 0 else "ul-bar-won", filled=q <= ALPHA)
            bars += axis.line(float(joint.low[k]), float(joint.high[k]), 17)
            limits = f"{decimal(joint.low[k])} to {decimal(joint.high[k])}"
            cells += f"<td>{decimal(joint.drop[k])} ({limits}), {as_text(probability('q', q))}</td>"
        name = as_text(study.names[k])
        return (
            f'<tr><th scope="row" title="{name}"><bdi>{name}</bdi> ({int(study.n_images[k])})</th>'
            f'<td><svg aria-hidden="true">{axis.zero}{bars}</svg></td>{cells}</tr>'
        )


class _Axis:
    """Places of values between two ends, as shares of a width."""

    def __init__(self, least: float, most: float) -> None:
        self.least, self.span = least, (most - least) or 1.0
        self.zero = f'<line class="ul-zero" x1="{self.share(0.0)}" x2="{self.share(0.0)}" y1="0" y2="24"/>'

    def share(self, value: float) -> str:
        return f"{100 * (value - self.least) / self.span:.2f}%"

    def bar(self, value: float, top: int, kind: str, *, filled: bool) -> str:
        return (
            f'<rect class="{kind}{" ul-sure" if filled else ""}" x="{self.share(min(value, 0.0))}" y="{top}" height="8" '
            f'width="{100 * abs(value) / self.span:.2f}%"/>'
        )

    def line(self, low: float, high: float, y: int) -> str:
        if not (np.isfinite(low) and np.isfinite(high)):
            return ""
        return f'<line class="ul-limits" x1="{self.share(low)}" x2="{self.share(high)}" y1="{y}" y2="{y}"/>'


def _written(group: tuple[int, ...]) -> str:
    return ", ".join(map(str, group))


def build(explorer: Explorer) -> W.Widget:
    """The tab."""
    return Group(explorer).widget
