"""The explorer: an anywidget whose traits say what is chosen; its page draws, and asks for rows."""

from __future__ import annotations

import logging
from collections import defaultdict
from functools import partial
from typing import Any

import traitlets as T
import xarray as xr
from PIL import Image

from unitlab.analysis.attributes import own_attributes
from unitlab.catalog import stored_studies
from unitlab.errors import UnitlabError, nearest_names
from unitlab.views.explorer.answers import answered, compared, packed
from unitlab.views.explorer.background import BackgroundWork, measure_beside
from unitlab.views.explorer.cells import PageWidget, shown_here
from unitlab.views.explorer.live_network import NotAtHand
from unitlab.views.explorer.long_work import LONG, TriedImage
from unitlab.views.explorer.measured_study import OF_THE_CLASS, MeasuredStudy
from unitlab.views.explorer.opened_study import OpenedStudy
from unitlab.views.explorer.snapshot import snapshot
from unitlab.views.gallery import STYLES

LOOKS = {"line": False, "image_style": "outline", "image_strength": 0.5}
PLACE = ("study", "layer", "ablation")
log = logging.getLogger(__name__)


class Explorer(PageWidget):
    """The explorer of one study, shown by being the last expression of a cell.

    Its traits say what is chosen: set one, and the views follow; observe one, and Python follows the reader. ``ds`` is the
    study's dataset of the layer and ablation that are open. ``code()`` gives the line of Python that restores the view.
    """

    _held = T.Dict().tag(sync=True)
    _measured = T.Dict().tag(sync=True)
    _ahead: Any = T.List().tag(sync=True)  # rows of the unit that opens: while cells run, the page's questions wait
    _said: Any = T.List().tag(sync=True)
    study = T.Unicode(help="name of the study").tag(sync=True)
    layer = T.Unicode(help="layer of the study").tag(sync=True)
    ablation = T.Unicode(help="kind of ablation").tag(sync=True)
    unit = T.Int(help="number of the open unit").tag(sync=True)
    category = T.Unicode(help="name of the chosen class, empty for none").tag(sync=True)
    group = T.Tuple(help="numbers of the units of the group").tag(sync=True)
    x = T.Unicode(help="variable on the horizontal axis of the units").tag(sync=True)
    y = T.Unicode(help="variable on the vertical axis of the units; accuracy_drop is that of the chosen class").tag(sync=True)
    color = T.Unicode(help="variable that colours the units, empty for none").tag(sync=True)
    line = T.Bool(False, help="whether the fitted line with its band is drawn").tag(sync=True)
    image: Any = T.Any(None, help="picture that is tried: an id of the study's images, or a picture of Pillow")
    _tried = T.Int().tag(sync=True)  # how many pictures Python has given
    image_style = T.Enum(STYLES, "outline", help="how the activation map lies over the top images").tag(sync=True)
    image_strength = T.Float(0.5, min=0.0, max=1.0, help="threshold of the outline, or opacity of the heat").tag(sync=True)

    def __init__(self, given: Any, *, category: str | None = None, y: str | None = None, **chosen: Any) -> None:
        self.source = OpenedStudy(given)
        study = self._measured_study = self.source.at(*self.source.first)
        # the vertical axis changes to the cross-fitted maximum when that is known, unless it was asked for
        self._follow_y = y is None
        self._opened = {self.source.name: self.source}
        self._remembered: dict[tuple[str, ...], tuple[int, tuple[int, ...]]] = {}
        self._work: dict[str, BackgroundWork] = defaultdict(BackgroundWork)
        self._trial = TriedImage()
        self._stills: list[Any] = []  # where a picture of it stands in a notebook
        asked = {"category": category, "y": y, **chosen}
        asked = {name: _known(study, name, value, category) for name, value in asked.items() if value not in (None, "")}
        usual = {"unit": study.strongest_unit(category or ""), **_usual_axes(study, category)}
        super().__init__(_held=self._for_page(), _measured=study.measured, **self._here, **usual | asked)
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
    def _here(self) -> dict[str, str]:
        return {"study": self.source.name, "layer": self._measured_study.layer, "ablation": self._measured_study.ablation}

    def __repr__(self) -> str:
        return self.code()

    def _ipython_display_(self) -> None:
        if self.comm is None:  # its cell ran again, and it is shown elsewhere
            self._ahead = self._rows_ahead()
            self.layout.open()
            self.open()
        self._stills.append(shown_here(self))

    def _still(self) -> dict[str, str]:
        """What stands for it where nothing runs, as Jupyter shows it."""
        return {"text/html": snapshot(self._measured_study, self), "text/plain": repr(self)}

    def close(self) -> None:
        super().close()
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
        study = self.source.code()
        if isinstance(self.source.given, xr.Dataset) or (self.layer, self.ablation) != self.source.first:
            in_hand = self.source.path is None or bool(own_attributes(self.ds))
            study = "ds" if in_hand else f"unitlab.load({study}, {self.layer!r}, {self.ablation!r})"
        usual = {"category": "", **_usual_axes(self._measured_study, self.category), "group": (), **LOOKS}
        given = {name: getattr(self, name) for name, value in usual.items() if getattr(self, name) != value}
        given = {"unit": self.unit} | {"selection" if name == "group" else name: value for name, value in given.items()}
        options = [f"{name}={value!r}" for name, value in given.items()]
        return f"unitlab.explore({', '.join([study, *options])})"

    @T.validate("unit", "group", "category", "x", "y", "color", "image")
    def _refuse_unknown(self, proposal: Any) -> Any:
        return _known(self._measured_study, proposal.trait.name, proposal.value, self.category)

    @T.observe("category")
    def _class_changed(self, change: Any) -> None:
        """A class takes the vertical axis, and gives it back."""
        if change.new and not change.old and self.y == self._measured_study.default_y:
            self.y = OF_THE_CLASS
        elif not change.new and self.y == OF_THE_CLASS:
            self.y = self._measured_study.default_y

    @T.observe("image")
    def _other_picture(self, change: Any) -> None:
        self._trial.take(change.new)
        self._tried += change.new is not None

    @T.observe("unit", "study")
    def _other_unit(self, _change: Any) -> None:
        self.say("")

    @T.validate(*PLACE)
    def _go(self, proposal: Any) -> Any:
        if proposal.value != self._here[proposal.trait.name]:
            self._move({proposal.trait.name: proposal.value}, {})
        return proposal.value

    def set_state(self, sync_data: dict[str, Any]) -> None:
        """What the page has chosen: layers first, since the rest is of them."""
        rest = dict(sync_data)
        place = {name: rest.pop(name) for name in PLACE if name in rest}
        try:
            if place:
                self._move(place, rest)
            super().set_state(rest)
        except Exception as error:
            self.say(_sentence_of(error), self.source.remedy())
            self.send_state()

    def _move(self, place: dict[str, str], rest: dict[str, Any]) -> None:
        """Open another study, layer or ablation; stay where we are if that fails."""
        wanted = self._here | place
        source = self._opened.get(wanted["study"]) or OpenedStudy(wanted["study"], wanted["study"])
        layer, ablation = wanted["layer"], wanted["ablation"]
        if source is not self.source and "layer" not in place:
            layer, ablation = source.first
        elif "ablation" not in place and ablation not in source.layers.get(layer, [ablation]):
            ablation = source.layers[layer][0]
        study = source.at(layer, ablation)
        if study is self._measured_study:
            return
        self._remembered[tuple(self._here.values())] = (self.unit, self.group)
        self._opened[source.name] = self.source = source
        self._measured_study = study
        for work in self._work.values():
            work.stop()
        with self.hold_sync():
            self.study, self.layer, self.ablation = self._here.values()
            self._arrive(rest)
            self._held, self._measured, self._ahead = self._for_page(), study.measured, self._rows_ahead()
        self._measure()

    def _arrive(self, rest: dict[str, Any]) -> None:
        """Another layer has other units and may lack a variable; another study has other classes."""
        study = self._measured_study
        self.category = rest.pop("category", self.category if self.category in study.names else "")
        for axis, usual in _usual_axes(study, self.category).items():
            wanted = rest.pop(axis, getattr(self, axis))
            known = wanted in study.variables or study.is_awaited(wanted) or (wanted == OF_THE_CLASS and self.category)
            follow = axis == "y" and self._follow_y and wanted in ("max_class_drop", "max_class_drop_crossfit")
            setattr(self, axis, usual if follow or (wanted and not known) else wanted)
        unit, group = self._remembered.get(tuple(self._here.values()), (study.strongest_unit(self.category), ()))
        self.unit, self.group = rest.pop("unit", unit), rest.pop("group", group)

    def _for_page(self) -> dict[str, Any]:
        studies = sorted({*stored_studies(), *self._opened})
        return self._measured_study.held | {"studies": studies, "layers": self.source.layers}

    def _rows_ahead(self) -> list[dict[str, Any]]:
        of = "class" if self.category else "all"
        asks = [{"kind": "unit", "unit": self.unit}, {"kind": "top", "unit": self.unit, "of": of, "category": self.category}]
        rows = []
        for ask in asks + ([{"kind": "class", "category": self.category}] if self.category else []):
            try:
                answer, buffers = packed(answered(self._measured_study, ask))
            except (UnitlabError, OSError):
                continue  # the page will ask, and show the sentence in its place
            rows.append({"ask": ask, "answer": answer, "buffers": buffers})
        return rows

    def _measure(self) -> None:
        study = self._measured_study

        def told(error: Exception | None) -> None:
            if error is not None:
                return self.say(_sentence_of(error))
            if study is not self._measured_study:
                return
            with self.hold_sync():
                self._measured, self._ahead = study.measured, self._rows_ahead()
                if self._follow_y and self.y == "max_class_drop":
                    self.y = study.default_y
            for place in self._stills:
                place.update(self._still(), raw=True)

        if not study.complete:
            measure_beside(study, self.source.opened_as, told)

    def _asked(self, _widget: Any, content: Any, _buffers: Any) -> None:
        """The page asks for rows; each is answered by itself, so that what is there is painted while the rest is on its way."""
        for ask in content.get("asks", ()):
            try:
                self._answer(ask)
            except Exception as error:
                self._refuse(ask, error)

    def _refuse(self, ask: dict[str, Any], error: Exception) -> None:
        command = error.command if isinstance(error, NotAtHand) else self.source.remedy()
        self.send({"id": ask.get("id"), "error": _sentence_of(error), "command": command})

    def _answer(self, ask: dict[str, Any]) -> None:
        study, kind, number = self._measured_study, ask.get("kind"), ask.get("id")
        long = LONG | {"try": self._trial.answer, "try_rank": self._trial.ranking}

        def reply(answer: dict[str, Any]) -> None:
            meta, buffers = packed(answer)
            self.send({**meta, "id": number}, buffers)

        def told(*progress: Any) -> None:
            self.send({"id": number, "progress": list(progress)})

        if kind == "stop":
            self._work[ask["of"]].stop()
        elif kind == "code":
            reply({"code": self.code()})
        elif kind == "compare":
            a = ask["a"]
            pinned = self._opened[a["study"]].at(a["layer"], a["ablation"])
            reply(compared(pinned, int(a["unit"]), study, int(ask["unit"])))
        elif kind == "try_open":
            self._trial.take(ask["picture"])
            reply({})
        elif kind in long:
            self._work[kind].start(partial(long[kind], study, ask), told, reply, partial(self._refuse, ask))
        else:
            reply(answered(study, ask))


def _usual_axes(study: MeasuredStudy, category: str | None) -> dict[str, str]:
    return {"x": "overall_drop", "y": OF_THE_CLASS if category else study.default_y, "color": ""}


def _known(study: MeasuredStudy, name: str, value: Any, category: str | None) -> Any:
    """The value of a trait; refused where the open study has not what it says."""
    if name == "unit":
        study.position(value)
    elif name == "group":
        return tuple(int(study.units[study.position(one)]) for one in dict.fromkeys(value))
    elif name == "category" and value:
        study.category_position(value)
    elif name in ("x", "y", "color") and value and not (value == OF_THE_CLASS and category):
        study.require_variable(value)
    elif name == "image" and value is not None and not isinstance(value, Image.Image):
        if str(value) not in study.ids:
            near = nearest_names(str(value), study.ids)
            raise UnitlabError(f"image takes an id of the study's images or a picture of Pillow; given {value!r}. {near}")
        return str(value)
    return value


def _sentence_of(error: Exception) -> str:
    """What to tell of an error: a `UnitlabError` speaks for itself, anything else is unitlab's fault."""
    if isinstance(error, UnitlabError):
        text = str(error)
        return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?", "!", ":")) else ".")
    if isinstance(error, OSError):
        return f"A file cannot be read ({error.strerror or type(error).__name__}: {error.filename or ''})."
    log.error("callback of the explorer", exc_info=error)
    return f"unitlab failed here ({type(error).__name__}: {error}); the kernel's log has the details."
