"""The store of groups or curves: opened where it is there and of the same call, else its shards until it is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

import xarray as xr

from unitlab.errors import UnitlabError, before_and_now
from unitlab.store.shards import HeldShards, PartialStudy, Shards, differing_field, remove_left_shards
from unitlab.store.study import open_study
from unitlab.store.writing import CONTENT, write_result


class StoredResult:
    """Where a call keeps its result; nowhere, for the store None.

    Parameters
    ----------
    store
        A path.
    kind
        "groups" or "curves".
    fingerprint
        What the result depends on.

    Raises
    ------
    UnitlabError
        The store is there and holds something else.
    """

    def __init__(self, store: str | Path | None, kind: str, fingerprint: Mapping[str, str]) -> None:
        if not isinstance(store, str | Path | None):
            raise UnitlabError(f"store={store!r} is not a path; give one such as '{kind}.zarr', or leave it out")
        self.store, self.kind, self.fingerprint = store, kind, dict(fingerprint)
        self.there = store is not None and Path(store).exists()
        if self.there:
            attrs = self.open().attrs
            known = {
                name.removeprefix("fingerprint_"): value
                for name, value in attrs.items()
                if name.startswith("fingerprint_") and name not in CONTENT
            }
            field = "kind" if attrs.get("result") != kind else differing_field(known, self.fingerprint)
            if field is not None:
                values = before_and_now(known.get(field, attrs.get("result", "a study")), self.fingerprint.get(field, kind))
                raise UnitlabError(f"{store} holds a result of other {field}{values}; give another store, or remove this one")

    def open(self) -> xr.Dataset:
        """What is there."""
        assert self.store is not None
        return open_study(self.store)

    @contextmanager
    def shards(self, plan: Mapping[str, str]) -> Iterator[Shards]:
        """Where the shards of a plan with this fingerprint are kept."""
        if self.store is None:
            yield HeldShards()
            return
        self._plan = {**plan, **{f"result {name}": value for name, value in self.fingerprint.items()}}
        with closing(PartialStudy(self.store, self._plan)) as study:
            yield study

    def written(self, ds: xr.Dataset) -> xr.Dataset:
        """The result, from the store where there is one."""
        if self.store is None:
            return ds
        attrs = {f"fingerprint_{name}": value for name, value in self.fingerprint.items()}
        write_result(self.store, ds.assign_attrs(attrs), self.kind)
        remove_left_shards(self.store, getattr(self, "_plan", {}))
        return self.open()
