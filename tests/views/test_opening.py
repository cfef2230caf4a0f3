"""Opening the explorer: the outline before it, and figures that are closed."""

from __future__ import annotations

import pytest

from unitlab import UnitlabError

pytest.importorskip("ipywidgets")
pytest.importorskip("jupyter_bokeh")

from unitlab.views.explorer import skeleton as skeletons
from unitlab.views.explorer.figures import FigureWidget, bare_figure


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
