"""State dicts from files of others: safetensors, torch's zip format and its older one, without running what is in them."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unitlab.compute.files.downloads import looks_like_a_page
from unitlab.errors import UnitlabError, what_it_says

SHOWN_NAMES = 4


def read_state_dict(path: Path, within: str = "", renamed: Sequence[tuple[str, str]] = ()) -> dict[str, Tensor]:
    """Parameters of a file by name, float32, on the CPU.

    Parameters
    ----------
    path
        ``.safetensors``, or what ``torch.save`` wrote, by any version, under Python 2 or 3.
    within
        Key of the state dict inside the checkpoint; "" where the file is the state dict.
    renamed
        Regular expressions and replacements for the names, after ``module.`` (of DataParallel) is taken away.

    Raises
    ------
    UnitlabError
        A file that is no checkpoint, is cut, is a web page, or holds code besides tensors; no state dict in it.
    """
    if looks_like_a_page(path):
        raise UnitlabError(f"{path} is a web page, not a file of weights; download it again, past the proxy or log-in page")
    found = _safetensors(path) if path.suffix == ".safetensors" else _torch_file(path)
    if within:
        if not isinstance(found, Mapping) or not isinstance(found.get(within), Mapping):
            keys = list(found)[:SHOWN_NAMES] if isinstance(found, Mapping) else type(found).__name__
            raise UnitlabError(f"{path} is no checkpoint with the key {within!r}; it holds {keys}")
        found = found[within]
    if not isinstance(found, Mapping) or not found:
        raise UnitlabError(f"{path} holds a {type(found).__name__}, not parameters by name")
    state: dict[str, Tensor] = {}
    for key, value in found.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise UnitlabError(
                f"{path} is no state dict: {str(key)[:40]!r} is a {type(value).__name__}. It holds {list(found)[:SHOWN_NAMES]}"
            )
        name = ".".join(part for part in key.split(".") if part != "module")
        for pattern, replacement in renamed:
            name = re.sub(pattern, replacement, name)
        if name in state:
            raise UnitlabError(f"{path} has two parameters that are both called {name!r} without 'module.'")
        state[name] = value
    return state


def load_parameters(network: nn.Module, state: Mapping[str, Tensor], path: Path, categories: int) -> nn.Module:
    """The network with the parameters of a file, in eval mode.

    Raises
    ------
    UnitlabError
        Parameters that are missing, unknown, of another shape or not finite; another number of classes.
    """
    wanted = network.state_dict()
    optional = {name for name in wanted if name.endswith("num_batches_tracked")}
    missing = [name for name in wanted if name not in state and name not in optional]
    unknown = [name for name in state if name not in wanted]
    if missing or unknown:
        raise UnitlabError(
            f"{path} does not hold the parameters of {type(network).__name__}: "
            + "; ".join([*_listed("it lacks", missing), *_listed("it has, and the network has not,", unknown)])
        )
    other = [name for name in wanted if name in state and state[name].shape != wanted[name].shape]
    if other:
        rows = {int(state[name].shape[0]) for name in other if state[name].dim()}
        differ_in_rows = all(state[name].shape[1:] == wanted[name].shape[1:] for name in other if state[name].dim())
        if len(rows) == 1 and differ_in_rows and all(wanted[name].shape[0] == categories for name in other):
            raise UnitlabError(f"{path} tells {rows.pop()} classes apart, the recipe's images have {categories}")
        name = other[0]
        raise UnitlabError(
            f"{path} holds parameters of other shapes than {type(network).__name__}'s: {name} is {tuple(state[name].shape)}, "
            f"expected {tuple(wanted[name].shape)}" + (f", and {len(other) - 1} more" if other[1:] else "")
        )
    with torch.no_grad():
        for name, target in wanted.items():
            if name not in state:
                continue
            value = state[name]
            odd = value.is_complex() or value.is_sparse or value.is_quantized
            if odd or value.is_floating_point() != target.is_floating_point():
                raise UnitlabError(f"{path}: the parameter {name} is {value.dtype} {value.layout}, expected {target.dtype}")
            if not torch.isfinite(value).all():
                raise UnitlabError(f"{path}: the parameter {name} holds NaN or infinite values; the file is damaged")
            target.copy_(value)
    return network.eval()


def _listed(what: str, names: Sequence[str]) -> list[str]:
    if not names:
        return []
    more = f" … ({len(names)} in all)" if len(names) > SHOWN_NAMES else ""
    return [f"{what} {', '.join(names[:SHOWN_NAMES])}{more}"]


def _safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UnitlabError(f"the weights file {path} is damaged or cut ({error})") from error


def _torch_file(path: Path) -> Any:
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as opened:
                # torch stores without compressing; anything else may unpack to any size
                if any(entry.compress_type != zipfile.ZIP_STORED for entry in opened.infolist()):
                    raise UnitlabError(f"{path} is refused: it is a compressed zip archive, and no file that torch.save wrote")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            return torch.load(path, map_location="cpu", weights_only=True)
    except UnitlabError:
        raise
    except pickle.UnpicklingError as error:
        forbidden = re.search(r"GLOBAL (\S+)|reduce for unrecognized function (.+)|build .* but got (.+)", str(error))
        if forbidden:
            named = next(group for group in forbidden.groups() if group)
            raise UnitlabError(
                f"{path} is refused: besides tensors it holds code to run ({named}), which may do anything. Nothing of it was "
                "run. Ask for a state dict: torch.save(model.state_dict(), ...)"
            ) from error
        raise UnitlabError(f"{path} is no file of weights that torch can read: {what_it_says(error)[:200]}") from error
    except Exception as error:
        # what is in a damaged file makes torch fail in every way
        said = what_it_says(error)[:200]
        raise UnitlabError(f"the weights file {path} is damaged, cut, or no file of weights: {said}") from error
