"""Take away: the plots as PNG, the selected rows as CSV, the view as code, and the HTML report."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets as W

from unitlab.errors import UnitlabError
from unitlab.views.explorer.background import BackgroundWork, Progress
from unitlab.views.explorer.downloads import copy_button, download_button, figures_button
from unitlab.views.explorer.messages import as_text, guarded, message_html
from unitlab.views.explorer.styled import styled
from unitlab.views.explorer.tab_page import tab_page
from unitlab.views.explorer.tables import cells_table, units_table
from unitlab.views.report import MOST_UNITS, page, write

if TYPE_CHECKING:
    from unitlab.views.explorer.explorer import Explorer


# what goes to the browser inside a message; larger files are written beside the notebook alone
LARGEST_MESSAGE = 40_000_000


class TakeAway:
    """``widget``: code, PNG, CSV and report, each with what it gives."""

    def __init__(self, explorer: Explorer) -> None:
        self.explorer, self.state = explorer, explorer.state
        self.figures, self.which = styled(W.HTML), styled(W.HTML)
        self.code, self.files = styled(W.HTML, "ul-view-code"), styled(W.HTML, "ul-files")
        self.units_csv = styled(W.Button, description="CSV of units", tooltip="units with all their measures")
        self.cells_csv = styled(
            W.Button, description="CSV of units × classes", tooltip="every class of these units, with intervals"
        )
        self.path = styled(
            W.Text, "ul-report-path", description="Report", tooltip="file that the report is written to",
            continuous_update=False,
        )  # fmt: skip
        self.write_report = styled(
            W.Button, "ul-write-report", description="Write HTML report", tooltip="one file that needs no kernel and no network"
        )
        self.work = BackgroundWork()
        self.path.value = f"{self._stem()}.html"
        self.units_csv.on_click(guarded(lambda _: self._csv("units", units_table), self._failed))
        self.cells_csv.on_click(guarded(lambda _: self._csv("cells", cells_table), self._failed))
        self.write_report.on_click(guarded(lambda _: self._report(), self._failed))
        self.show = guarded(self._show, self._failed)
        self.show()
        explorer.watch(self.show, "unit", "category", "x", "y", "color", "line", "selection", "measures")
        lines = [
            styled(W.HBox, "ul-line", [self.figures, self.units_csv, self.cells_csv, self.which]),
            styled(W.HBox, "ul-line", [self.path, self.write_report, self.work.widget]),
        ]
        self.widget = tab_page(self.code, *lines, self.files)

    def _stem(self) -> str:
        state = self.state
        return re.sub(r"[^\w.-]+", "_", f"{state.study}_{state.layer}_{state.ablation}").strip("._") or "study"

    @property
    def rows(self) -> list[int]:
        """The units of the group; all of them where there is none."""
        return list(self.state.selection) or self.explorer.study.units.tolist()

    def _show(self) -> None:
        self.code.value = (
            '<div><code class="ul-code" aria-label="code that restores this view">import unitlab\n'
            f"{as_text(self.explorer.code())}</code> {copy_button()}</div>"
        )
        self.figures.value = f"<div>{figures_button(f'{self._stem()}_unit_{self.state.unit}')}</div>"
        count = len(self.rows)
        which = "units of the group" if self.state.selection else "units, all of them; a group narrows it"
        self.which.value = f'<span class="ul-faint">{count:,} {which}</span>'
        self.write_report.disabled = not self.explorer.study.complete
        if not self.explorer.study.complete:
            self.files.value = message_html("The report follows when tests and cross-fitted drops are computed.")
        elif count > MOST_UNITS:
            self.files.value = message_html(
                f"A report holds at most {MOST_UNITS} units, and {count:,} would go into it: collect a group (lasso) first."
            )
            self.write_report.disabled = True
        else:
            self.files.value = ""

    def _failed(self, sentence: str) -> None:
        self.files.value = f'<div class="ul-message">{message_html(sentence)}</div>'

    def _csv(self, what: str, table: Callable[..., Any]) -> None:
        units, name = self.rows, f"{self._stem()}_{what}.csv"
        study = self.explorer.study

        def work(progress: Progress) -> bytes:
            content = table(study, units).to_csv().encode()
            progress(1, 1)
            return content

        self.work.start("Writing the table …", work, lambda content: self._give(name, "text/csv", content), self._failed)

    def _report(self) -> None:
        explorer = self.explorer
        study, units, unit = explorer.study, self.rows, self.state.unit
        target = Path(self.path.value.strip() or f"{self._stem()}.html").expanduser()
        if target.is_dir() or not target.parent.is_dir():
            raise UnitlabError(f"there is no folder for {str(target)!r}; give a file name in a folder that exists")

        def work(progress: Progress) -> bytes:
            return page(study.ds, study.measures, units, unit=unit, progress=progress).encode()

        def done(content: bytes) -> None:
            try:
                written = write(content.decode(), target).resolve()
            except UnitlabError as error:
                # a server that lets nobody write: the browser gets the file all the same
                self._give(target.name, "text/html", content, str(error))
                return
            self._give(target.name, "text/html", content, f"Written to {written}.")

        self.work.start(f"Writing the report of {len(units):,} units …", work, done, self._failed)

    def _give(self, name: str, kind: str, content: bytes, said: str = "") -> None:
        size = f"{len(content) / 1e6:.1f} MB" if len(content) >= 1e5 else f"{len(content) / 1e3:.1f} kB"
        if len(content) > LARGEST_MESSAGE:
            if not said:
                target = write(content.decode(), Path(name)).resolve()
                said = f"Written to {target}."
            self.files.value = f"<div><p>{as_text(said)} ({size})</p></div>"
            return
        button = download_button(f"Save {name} ({size})", name, kind, content)
        self.files.value = f"<div>{button} {as_text(said)}</div>"


def build(explorer: Explorer) -> W.Widget:
    """The tab."""
    return TakeAway(explorer).widget
