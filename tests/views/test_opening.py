"""Opening the explorer: the outline before it, figures that are closed, and what its widgets share."""

from __future__ import annotations

import pytest

from unitlab import UnitlabError

pytest.importorskip("ipywidgets")
pytest.importorskip("jupyter_bokeh")

import ipywidgets as W

from unitlab.views.explorer import skeleton as skeletons
from unitlab.views.explorer.figures import FigureWidget, bare_figure
from unitlab.views.explorer.styled import styled


class Place:
    """What `display` gives: where something was shown."""

    def __init__(self) -> None:
        self.shown: list[object] = []

    def __call__(self, first: object, *, display_id: bool) -> Place:
        self.shown.append(first)
        return self

    def update(self, other: object) -> None:
        self.shown.append(other)


@pytest.mark.parametrize("error", [None, UnitlabError, KeyboardInterrupt])
def test_the_outline_goes_however_opening_ends(monkeypatch: pytest.MonkeyPatch, error: type[BaseException] | None) -> None:
    place = Place()
    monkeypatch.setattr(skeletons, "display", place)

    def opened() -> None:
        with skeletons.skeleton("<b>birds</b>"):
            assert "Opening &lt;b&gt;birds&lt;/b&gt;" in place.shown[0].data
            if error is not None:
                raise error

    if error is None:
        opened()
    else:
        with pytest.raises(error):
            opened()
    assert [shown.data for shown in place.shown[1:]] == [""]


def test_a_figure_may_be_closed_twice() -> None:
    figure = FigureWidget(bare_figure("units", 100))
    figure.close()
    figure.close()
    assert figure.comm is None


def test_what_widgets_share_cannot_change() -> None:
    one, other = styled(W.HTML), styled(W.HTML, layout=W.Layout())
    other.layout.display = "none"
    with pytest.raises(RuntimeError, match="'display' would change in every widget"):
        one.layout.display = "none"
