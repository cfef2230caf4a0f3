"""The explorer: an anywidget whose traits say what is chosen; its page draws, and asks for rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import anywidget
import traitlets as T
import xarray as xr
from PIL import Image

from unitlab.analysis.attributes import own_attributes
from unitlab.analysis.correlations import chosen
from unitlab.errors import UnitlabError, nearest_names
from unitlab.views.explorer.answers import answered, compared
from unitlab.views.explorer.background import BackgroundWork
from unitlab.views.explorer.live_network import NotAtHand
from unitlab.views.explorer.long_work import LONG
from unitlab.views.explorer.measured_study import MeasuredStudy
from unitlab.views.explorer.measuring import measure_beside
from unitlab.views.explorer.messages import sentence_of
from unitlab.views.explorer.opened_studies import OpenedStudies, measured
from unitlab.views.explorer.opening import StudySource
from unitlab.views.explorer.places import shown_here
from unitlab.views.explorer.snapshot import snapshot
from unitlab.views.explorer.try_image import TRIALS, TriedImage
from unitlab.views.page import loader, module

DEFAULT_X, OF_THE_CLASS = "overall_drop", "accuracy_drop"
IMAGE_STYLES = ("outline", "heat", "none")
PLACE = ("study", "layer", "ablation")


def _trait(kind: Any, help_text: str, *given: Any, **options: Any) -> Any:
    return kind(*given, help=help_text, **options).tag(sync=True)


class Explorer(anywidget.AnyWidget):
    """The explorer of one study, shown by being the last expression of a cell.

    Its traits say what is chosen: set one, and the views follow; observe one, and Python follows the reader. ``ds`` is the
    study's dataset of the layer and ablation that are open. ``code()`` gives the line of Python that restores the view.
    """

    _esm = loader()
    _module = T.Unicode().tag(sync=True)
    _held = T.Dict().tag(sync=True)
    _measured = T.Dict().tag(sync=True)
    _ahead: Any = T.List().tag(sync=True)  # rows of the unit that opens: while cells run, the page's questions wait
    _said: Any = T.List().tag(sync=True)
    study = _trait(T.Unicode, "name of the study")
    layer = _trait(T.Unicode, "layer of the study")
    ablation = _trait(T.Unicode, "kind of ablation")
    unit = _trait(T.Int, "number of the open unit")
    category = _trait(T.Unicode, "name of the chosen class, empty for none")
    group = _trait(T.Tuple, "numbers of the units of the group")
    x = _trait(T.Unicode, "variable on the horizontal axis of the units")
    y = _trait(T.Unicode, "variable on the vertical axis of the units; accuracy_drop is that of the chosen class")
    color = _trait(T.Unicode, "variable that colours the units, empty for none")
    line = _trait(T.Bool, "whether the fitted line with its band is drawn", False)
    image: Any = T.Any(None, help="picture that is tried: an id of the study's images, or a picture of Pillow")
    _tried = T.Int().tag(sync=True)  # how many pictures Python has given
    image_style = _trait(T.Enum, "how the activation map lies over the top images", IMAGE_STYLES, "outline")
    image_strength = _trait(T.Float, "threshold of the outline, or opacity of the heat", 0.5, min=0.0, max=1.0)

    def __init__(self, source: StudySource, study: MeasuredStudy, *, follow_y: bool = True, **chosen_first: Any) -> None:
        # the vertical axis changes to the cross-fitted maximum when that is known, unless it was asked for
        self._follow_y, self._moving = follow_y, False
        self._measured_study = study
        self.opened = OpenedStudies(source, study)
        self._remembered: dict[tuple[str, str, str], tuple[int, tuple[int, ...]]] = {}
        self._work: dict[str, BackgroundWork] = {}
        self._trial = TriedImage()
        self._places: set[str] = set()
        self._still: list[Any] = []  # where a picture of it stands in a notebook
        super().__init__(
            _module=module(), _held=self._for_page(), _measured=study.for_page()[1], study=self.opened.name,
            layer=study.layer, ablation=study.ablation, **chosen_first,
        )  # fmt: skip
        self._ahead = self._rows_ahead()
        self.on_msg(self._asked)
        self._measure()

    @property
    def ds(self) -> xr.Dataset:
        """The dataset of the open layer and ablation."""
        return self._measured_study.ds

    @property
    def measures(self) -> xr.Dataset:
        """What the explorer shows of it: `unitlab.damage` and `unitlab.attributes`, counts alone until they are computed."""
        return self._measured_study.measures

    @property
    def source(self) -> StudySource:
        """Where the open study comes from."""
        return self.opened.source(self.opened.name)

    def __repr__(self) -> str:
        return self.code()

    def _ipython_display_(self) -> None:
        if self.comm is None:  # its cell ran again, and it is shown elsewhere
            self._ahead = self._rows_ahead()
            self.layout.open()
            self.open()
        self._still.append(shown_here(self, self._snapshot))

    def _snapshot(self) -> str:
        return snapshot(self._measured_study, self)

    def close(self) -> None:
        super().close()
        self.layout.close()
        self._ahead = []

    def say(self, sentence: str, command: str = "") -> None:
        """Show a sentence above the views, with the command that helps; an empty one takes it away."""
        self._said = [sentence, command] if sentence else []

    def code(self) -> str:
        """One line of Python that restores the view.

        Examples
        --------
        >>> import unitlab
        >>> unitlab.explore("vgg_fashion", unit=3).code()
        "unitlab.explore('vgg_fashion', unit=3)"
        """
        given = [self.source.code()]
        named = self.source.given
        if isinstance(named, xr.Dataset) or (self.layer, self.ablation) != self.opened.first(self.study):
            in_hand = self.source.path is None or bool(own_attributes(self.ds))
            given = ["ds" if in_hand else f"unitlab.load({given[0]}, {self.layer!r}, {self.ablation!r})"]
        given.append(f"unit={self.unit}")
        usual: dict[str, Any] = {"category": "", "x": DEFAULT_X, "y": self._usual_y, "color": ""}
        given += [f"{name}={getattr(self, name)!r}" for name, value in usual.items() if getattr(self, name) != value]
        if self.group:
            given.append(f"selection={self.group!r}")
        looks = {"line": False, "image_style": "outline", "image_strength": 0.5}
        given += [f"{name}={getattr(self, name)!r}" for name, value in looks.items() if getattr(self, name) != value]
        return f"unitlab.explore({', '.join(given)})"

    @property
    def _usual_y(self) -> str:
        return OF_THE_CLASS if self.category else self._measured_study.default_y

    @T.validate("unit", "group", "category", "x", "y", "color")
    def _known(self, proposal: Any) -> Any:
        """Refuse what the open study has not."""
        name, value, study = proposal.trait.name, proposal.value, self._measured_study
        if name == "unit":
            study.position(value)
        elif name == "group":
            return tuple(int(study.units[study.position(one)]) for one in dict.fromkeys(value))
        elif name == "category" and value:
            study.category_position(value)
        elif name in ("x", "y", "color") and value and value != OF_THE_CLASS:
            _require_variable(study, value)
        return value

    @T.observe("category")
    def _class_changed(self, change: Any) -> None:
        """A class takes the vertical axis, and gives it back."""
        if change.new and not change.old and self.y == self._measured_study.default_y:
            self.y = OF_THE_CLASS
        elif not change.new and self.y == OF_THE_CLASS:
            self.y = self._measured_study.default_y

    @T.validate("image")
    def _picture(self, proposal: Any) -> Any:
        value = proposal.value
        if value is not None and not isinstance(value, Image.Image) and str(value) not in self._measured_study.ids:
            near = nearest_names(str(value), self._measured_study.ids)
            raise UnitlabError(f"image takes an id of the study's images or a picture of Pillow; given {value!r}. {near}")
        return value if value is None or isinstance(value, Image.Image) else str(value)

    @T.observe("image")
    def _other_picture(self, change: Any) -> None:
        self._trial.take(change.new)
        self._tried += change.new is not None

    @T.observe("unit", "study")
    def _other_unit(self, _change: Any) -> None:
        self.say("")

    @T.observe(*PLACE)
    def _place_changed(self, change: Any) -> None:
        if self._moving:
            return
        try:
            self._move({change.name: change.new})
        except Exception:
            self._moving = True
            try:
                setattr(self, change.name, change.old)
            finally:
                self._moving = False
            raise

    def set_state(self, sync_data: dict[str, Any]) -> None:
        """What the page has chosen: layers first, since the rest is of them."""
        place = {name: sync_data[name] for name in PLACE if name in sync_data}
        rest = {name: value for name, value in sync_data.items() if name not in PLACE}
        try:
            if place:
                self._move(place, rest)
            super().set_state(rest)
        except Exception as error:
            self.say(sentence_of(error), self.source.remedy())
            self.send_state()

    def _move(self, place: dict[str, str], rest: dict[str, Any] | None = None) -> None:
        """Open another study, layer or ablation; stay where we are if that fails."""
        rest = {} if rest is None else rest
        here = (self.opened.name, self._measured_study.layer, self._measured_study.ablation)
        name = place.get("study", here[0])
        if name != here[0] and "layer" not in place:
            study = self.opened.another(name)
        else:
            layer = place.get("layer", here[1])
            kinds = self.opened.source(name).layers.get(layer, []) if name in self.opened.names and name == here[0] else []
            ablation = place.get("ablation", here[2] if here[2] in kinds or not kinds else kinds[0])
            if name != here[0]:
                self.opened.another(name)
            study = self.opened.layer(name, layer, ablation)
        if study is self._measured_study:
            return
        self._remembered[here] = (self.unit, self.group)
        self.opened.name, self._measured_study = name, study
        self._moving = True
        for work in self._work.values():
            work.stop()
        try:
            with self.hold_sync():
                self.study, self.layer, self.ablation = name, study.layer, study.ablation
                self._arrive((name, study.layer, study.ablation), rest)
                self._held, self._measured = self._for_page(), study.for_page()[1]
                self._ahead = self._rows_ahead()
        finally:
            self._moving = False
        self._measure()

    def _arrive(self, here: tuple[str, str, str], rest: dict[str, Any]) -> None:
        """Another layer has other units and may lack a variable; another study has other classes."""
        study = self._measured_study
        self.category = rest.pop("category", self.category if self.category in study.names else "")
        for axis, usual in (("x", DEFAULT_X), ("y", self._usual_y), ("color", "")):
            wanted = rest.pop(axis, getattr(self, axis))
            known = wanted in study.variables or study.is_awaited(wanted) or (wanted == OF_THE_CLASS and self.category)
            follow = axis == "y" and self._follow_y and wanted in ("max_class_drop", "max_class_drop_crossfit")
            setattr(self, axis, usual if follow or (wanted and not known) else wanted)
        unit, group = self._remembered.get(here, (study.strongest_unit(self.category), ()))
        self.unit = rest.pop("unit", unit)
        self.group = rest.pop("group", group)

    def _for_page(self) -> dict[str, Any]:
        opened = {"studies": self.opened.names, "layers": self.source.layers}
        return self._measured_study.for_page()[0] | opened

    def _rows_ahead(self) -> list[dict[str, Any]]:
        asks: list[dict[str, Any]] = [
            {"kind": "unit", "unit": self.unit},
            {"kind": "top", "unit": self.unit, "of": "class" if self.category else "all", "category": self.category},
        ]
        if self.category:
            asks.append({"kind": "class", "category": self.category})
        rows = []
        for ask in asks:
            try:
                answer, buffers = answered(self._measured_study, ask)
            except (UnitlabError, OSError):
                continue  # the page will ask, and show the sentence in its place
            rows.append({"ask": ask, "answer": answer, "buffers": buffers})
        return rows

    def _measure(self) -> None:
        study = self._measured_study
        if study.complete:
            return

        def done() -> None:
            if study is not self._measured_study:
                return
            with self.hold_sync():
                self._measured, self._ahead = study.for_page()[1], self._rows_ahead()
                if self._follow_y and self.y == "max_class_drop":
                    self.y = study.default_y
            for place in self._still:
                place.update({"text/html": self._snapshot(), "text/plain": repr(self)}, raw=True)

        measure_beside(study, self.source, done, self._failed)

    def _failed(self, error: Exception) -> None:
        self.say(sentence_of(error))

    def _asked(self, _widget: Any, content: Any, _buffers: Any) -> None:
        """The page asks for rows; each is answered by itself, so that what is there is painted while the rest is on its way."""
        for ask in content.get("asks", ()):
            try:
                self._answer(ask)
            except Exception as error:
                self._refuse(ask)(error)

    def _refuse(self, ask: dict[str, Any]) -> Callable[[Exception], None]:
        def refuse(error: Exception) -> None:
            command = error.command if isinstance(error, NotAtHand) else self.source.remedy()
            self.send({"id": ask.get("id"), "error": sentence_of(error), "command": command})

        return refuse

    def _answer(self, ask: dict[str, Any]) -> None:
        kind, number = ask.get("kind"), ask.get("id")
        if kind == "stop":
            if ask["of"] in self._work:
                self._work[ask["of"]].stop()
        elif kind == "code":
            self.send({"id": number, "code": self.code()})
        elif kind == "compare":
            a = ask["a"]
            pinned = self.opened.layer(a["study"], a["layer"], a["ablation"])
            answer, buffers = compared(pinned, int(a["unit"]), self._measured_study, int(ask["unit"]))
            self.send({**answer, "id": number}, buffers)
        elif kind == "try_open":
            self._trial.take(ask["picture"])
            self.send({"id": number})
        elif kind in LONG or kind in TRIALS:
            work = self._work.setdefault(kind, BackgroundWork())

            def told(*progress: Any) -> None:
                self.send({"id": number, "progress": list(progress)})

            def done(found: tuple[dict[str, Any], list[bytes]]) -> None:
                self.send({**found[0], "id": number}, found[1])

            # what is missing is said before anything starts
            study, trial = self._measured_study, self._trial
            run = LONG[kind](study, ask) if kind in LONG else partial(TRIALS[kind], trial, study, ask)
            work.start(run, told, done, self._refuse(ask))
        else:
            answer, buffers = answered(self._measured_study, ask)
            self.send({**answer, "id": number}, buffers)


def opened_explorer(ds_or_name: Any, unit: int | None, selection: Iterable[int], **given: Any) -> Explorer:
    """What `unitlab.explore` gives."""
    source, ds = StudySource.of(ds_or_name)
    study = measured(source, ds)
    x, y, color, category = (given.pop(name) for name in ("x", "y", "color", "category"))
    for name in (x, y, color):
        if name is not None and not (name == OF_THE_CLASS and category):
            _require_variable(study, name)
    if category is not None and category not in study.names:
        raise UnitlabError(f"the study has no class {category!r}. {nearest_names(category, study.names)}")
    group = tuple(int(study.units[study.position(one)]) for one in selection)
    first = study.strongest_unit() if unit is None else unit
    study.position(first)
    usual = OF_THE_CLASS if category else study.default_y
    return Explorer(
        source, study, follow_y=y is None, unit=first, category=category or "", x=x or DEFAULT_X, y=y or usual,
        color=color or "", group=group, **given,
    )  # fmt: skip


def _require_variable(study: MeasuredStudy, name: str) -> None:
    """Refuse what is no variable over units; one that takes long to compute may come later."""
    if name not in study.variables and study.is_quick and not study.complete:
        study.finish()
    if study.complete or not study.is_awaited(name):
        chosen(study.measures, [name], [("unit",)])
