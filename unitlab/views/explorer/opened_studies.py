"""The studies that an explorer can open by name, and those that it has opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import xarray as xr

from unitlab.catalog import path_of, stored_studies
from unitlab.errors import UnitlabError
from unitlab.views.explorer.measured_study import MeasuredStudy
from unitlab.views.explorer.opening import StudySource

# explorers of one study share what is measured of it: a cell that runs again adds nothing to the kernel
_measured: WeakValueDictionary[Any, MeasuredStudy] = WeakValueDictionary()


def measured(source: StudySource, ds: xr.Dataset) -> MeasuredStudy:
    """The measured study of a dataset, the one that another explorer holds where it is the same."""
    key: Any = id(ds)
    if source.path is not None and not isinstance(source.given, xr.Dataset):
        key = (str(source.path), repr(ds.attrs), ds.sizes["unit"])
    found = _measured.get(key)
    if found is None or (isinstance(key, int) and found.ds is not ds):
        found = _measured[key] = MeasuredStudy(ds)
    return found


class OpenedStudies:
    """``names``: what a reader can choose from, the study of the first call among them, which is called ``name``."""

    def __init__(self, source: StudySource, study: MeasuredStudy) -> None:
        known = stored_studies()
        self.name = source.name
        if self.name in known and not _is_named(source, self.name):
            self.name = f"{self.name} (this one)"
        self.names = sorted({*known, self.name})
        self._sources: dict[str, tuple[StudySource, tuple[str, str]]] = {}
        self._measured: dict[tuple[str, str, str], MeasuredStudy] = {}
        self._keep(self.name, source, study)

    def _keep(self, name: str, source: StudySource, study: MeasuredStudy) -> MeasuredStudy:
        self._sources.setdefault(name, (source, (study.layer, study.ablation)))
        return self._measured.setdefault((name, study.layer, study.ablation), study)

    def source(self, name: str) -> StudySource:
        """Where the study of this name comes from."""
        return self._sources[name][0]

    def first(self, name: str) -> tuple[str, str]:
        """Layer and ablation that opened first."""
        return self._sources[name][1]

    def another(self, name: str) -> MeasuredStudy:
        """The study of this name, as it opens by itself."""
        if name not in self._sources:
            source, ds = StudySource.of(name)
            return self._keep(name, source, measured(source, ds))
        return self.layer(name, *self.first(name))

    def layer(self, name: str, layer: str, ablation: str) -> MeasuredStudy:
        """Another layer or ablation of an opened study."""
        known = self._measured.get((name, layer, ablation))
        source = self.source(name)
        return known or self._keep(name, source, measured(source, source.open(layer, ablation)))


def _is_named(source: StudySource, name: str) -> bool:
    try:
        return source.path is not None and Path(source.path).samefile(path_of(name))
    except (OSError, UnitlabError):
        return False
