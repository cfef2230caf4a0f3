"""Opening the explorer: the outline before it, and what pauses meanwhile."""

from __future__ import annotations

import gc

import pytest
from simulated_study import simulated_study

import unitlab
from unitlab import UnitlabError

W = pytest.importorskip("ipywidgets")
pytest.importorskip("jupyter_bokeh")

from unitlab.views.explorer import skeleton as skeletons  # noqa: E402
from unitlab.views.explorer.figures import FigureWidget, bare_figure  # noqa: E402


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


@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_is_collected_again_afterwards(enabled: bool) -> None:
    found = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        unitlab.explore(simulated_study(4, 3, 30))
        assert gc.isenabled() is enabled
        with pytest.raises(UnitlabError):
            unitlab.explore("no_such_study")
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if found else gc.disable)()
