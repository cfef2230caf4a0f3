"""Where the explorer's study comes from, and what else that place holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xarray as xr

from unitlab.catalog import load, path_of, with_thumbnails
from unitlab.errors import UnitlabError
from unitlab.recipes import known_recipes
from unitlab.store.study import is_address


@dataclass(frozen=True)
class StudySource:
    """``given`` is what `unitlab.explore` was given; ``layers`` gives the ablations of each layer that can be opened."""

    given: Any
    name: str
    path: str | Path | None
    layers: dict[str, list[str]] = field(default_factory=dict)
    opened_as: str | Path | None = None  # the name or path that `unitlab.load` takes for the others

    @classmethod
    def of(cls, ds_or_name: Any) -> tuple[StudySource, xr.Dataset]:
        """The source of a name, path or dataset, and its dataset."""
        if isinstance(ds_or_name, xr.Dataset):
            ds = with_thumbnails(ds_or_name)
            stored = ds.encoding.get("source")
            path = stored if stored and (is_address(stored) or Path(stored).exists()) else None
        elif isinstance(ds_or_name, str | Path):
            path = path_of(ds_or_name)
            ds = load(ds_or_name)
        else:
            raise UnitlabError(
                f"unitlab.explore takes a study's name or path, or the dataset of one; given: {type(ds_or_name).__name__}. "
                "unitlab.studies() lists the names"
            )
        layer, ablation = str(ds.attrs.get("layer", "")), str(ds.attrs.get("ablation", "zero"))
        layers = ds.encoding.get("ablations", {})
        if path is None or ablation not in layers.get(layer, []):
            layers, path = {layer: [ablation]}, None
        return cls(ds_or_name, str(ds.attrs.get("name", "study")), path, layers, ds.encoding.get("opened_as", path)), ds

    def open(self, layer: str, ablation: str) -> xr.Dataset:
        """Another layer or ablation of the same study."""
        if self.path is None:
            raise UnitlabError("this dataset is in memory and holds one layer; explore the study by its name to see the others")
        return load(self.opened_as or self.path, layer, ablation)

    def remedy(self) -> str:
        """The command that helps where the store is not there any more; empty where it is."""
        if self.path is None or is_address(self.path) or Path(self.path).exists():
            return ""
        return f"unitlab compute {self.name}" if self.name in known_recipes() else "unitlab.studies()"

    def code(self) -> str:
        """How the study is written in a line of Python."""
        if isinstance(self.given, xr.Dataset):
            return "ds" if self.path is None else repr(str(self.path))
        return repr(str(self.given))
