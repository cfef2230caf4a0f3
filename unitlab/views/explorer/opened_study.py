"""A study that an explorer has opened: where it comes from, and its layers and ablations with their measures."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import xarray as xr

from unitlab.catalog import load, path_of, stored_studies, with_thumbnails
from unitlab.errors import UnitlabError
from unitlab.recipes import known_recipes
from unitlab.store.study import is_address
from unitlab.views.explorer.measured_study import MeasuredStudy

# explorers of one study share what is measured of it: a cell that runs again adds nothing to the kernel
_measured: WeakValueDictionary[Any, MeasuredStudy] = WeakValueDictionary()


class OpenedStudy:
    """The study of a name or path, or of a dataset, as ``given``; called ``name``, default as it calls itself. It opens at
    ``first``, a layer and ablation; ``layers`` gives the ablations of each layer."""

    def __init__(self, given: Any, name: str = "") -> None:
        if not isinstance(given, xr.Dataset | str | Path):
            raise UnitlabError(
                f"unitlab.explore takes a study's name or path, or the dataset of one; given: {type(given).__name__}. "
                "unitlab.studies() lists the names"
            )
        ds = with_thumbnails(given) if isinstance(given, xr.Dataset) else load(given)
        stored = ds.encoding.get("source")
        self.given, self.path = given, stored if stored and (is_address(stored) or Path(stored).exists()) else None
        layer, ablation = self.first = str(ds.attrs.get("layer", "")), str(ds.attrs.get("ablation", "zero"))
        self.layers = ds.encoding.get("ablations", {})
        if self.path is None or ablation not in self.layers.get(layer, []):
            self.layers, self.path = {layer: [ablation]}, None
        # what `unitlab.load` takes for the other layers
        self.opened_as: Any = None if self.path is None else ds.encoding.get("opened_as", self.path)
        self.name = name or str(ds.attrs.get("name", "study"))
        known = self.name in stored_studies() and self.name not in (name, self.opened_as)
        if known and (self.path is None or Path(self.path).resolve() != Path(path_of(self.name)).resolve()):
            self.name = f"{self.name} (this one)"
        self._kept: dict[tuple[str, str], MeasuredStudy] = {}
        self._keep(ds)

    def _keep(self, ds: xr.Dataset) -> MeasuredStudy:
        """The measured study of a dataset, the one that another explorer holds where it is the same."""
        key: Any = id(ds)
        if self.path is not None and not isinstance(self.given, xr.Dataset):
            key = (str(self.path), repr(ds.attrs), ds.sizes["unit"])
        found = _measured.get(key)
        if found is None or (isinstance(key, int) and found.ds is not ds):
            found = _measured[key] = MeasuredStudy(ds)
        return self._kept.setdefault((found.layer, found.ablation), found)

    def at(self, layer: str, ablation: str) -> MeasuredStudy:
        if (layer, ablation) in self._kept:
            return self._kept[layer, ablation]
        if self.path is None:
            raise UnitlabError("this dataset is in memory and holds one layer; explore the study by its name to see the others")
        return self._keep(load(self.opened_as, layer, ablation))

    def remedy(self) -> str:
        """The command that helps where the store is not there any more; empty where it is."""
        if self.path is None or is_address(self.path) or Path(self.path).exists():
            return ""
        return f"unitlab compute {self.name}" if self.name in known_recipes() else "unitlab.studies()"

    def code(self) -> str:
        """How the study is written in a line of Python."""
        given = self.path if isinstance(self.given, xr.Dataset) else self.given
        return "ds" if given is None else repr(str(given))
