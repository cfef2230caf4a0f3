"""The ``unitlab`` command: list, info, compute, remove, verify, lab."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from unitlab import catalog
from unitlab.analysis.attributes import undefined_attributes
from unitlab.analysis.damage import damage
from unitlab.analysis.requirements import is_screened, units_in
from unitlab.analysis.undefined import leading
from unitlab.errors import UnitlabError, units_named
from unitlab.files import bundled_folder, bytes_text, folder_bytes
from unitlab.lab import copy_notebooks, default_folder, open_lab
from unitlab.recipes import known_recipes
from unitlab.store.shards import shard_folder
from unitlab.store.study import open_study, study_summary
from unitlab.store.writing import remove_study
from unitlab.version import __version__

SHOWN_UNITS = 10


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns
    -------
    int
        0; 1 where ``verify`` found a difference; 2 for a `UnitlabError` (its message goes to stderr); 130 after Ctrl-C.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    given = _parser().parse_args(arguments)
    try:
        code = int(given.run(given))
        sys.stdout.flush()
        return code
    except UnitlabError as error:
        print(f"unitlab: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("unitlab: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # who reads has enough, as of '| head'; nothing is to be written at the end either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="unitlab", description="Which single units of an image classifier matter, and to which classes?"
    )
    parser.add_argument("--version", action="version", version=f"unitlab {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    commands.add_parser("list", help="studies that have a name").set_defaults(run=_list)
    info = commands.add_parser("info", help="what a study holds")
    info.add_argument("name", metavar="NAME", help="a study's name or path")
    info.set_defaults(run=_info)
    compute = commands.add_parser("compute", help="compute a study: silence every unit, re-measure every class")
    compute.add_argument("name", metavar="NAME", help="a study's name, or the path of a store of a known one")
    compute.add_argument("--layer", action="append", help="layer (may be given several times; default: the recipe's)")
    compute.add_argument("--ablation", default="zero", choices=("zero", "mean", "resample"))
    compute.add_argument("--units", help="units, such as 3,5,10-20 (default: all)")
    compute.add_argument(
        "--unit-dim",
        type=int,
        metavar="DIM",
        help="dimension of the layer's value that the units are (default: what made it tells)",
    )
    compute.add_argument("--device", help="cpu, cuda, cuda:1 (default: CUDA where it is present)")
    compute.add_argument("--precision", default="float32", choices=("float32", "bfloat16", "tf32"))
    compute.add_argument(
        "--decode",
        choices=("cpu", "gpu"),
        help="gpu: picture files are resized, cropped and normalised where the network is; pixels differ a little, and the "
        "study is another one (default: cpu, or as the recipe says)",
    )
    compute.add_argument("--memory", help="memory for the sweep besides the network; default 2 GB, on a GPU auto (half of it)")
    compute.add_argument(
        "--screen",
        type=float,
        nargs="?",
        const=0.01,
        metavar="SHARE",
        help="evaluate those pairs (unit, image) alone that may change a prediction, as gradients say; no more than this share "
        "of the changed predictions is missed (default where it is given: 0.01)",
    )
    compute.add_argument("--store", type=Path, help="where to write (default: unitlab's data folder)")
    _add_file_arguments(compute)
    compute.add_argument("--scheduler", metavar="ADDRESS", help="a Dask scheduler whose workers compute, tcp://HOST:PORT")
    compute.add_argument("--dry-run", action="store_true", help="say what would be done and what it would take, measured here")
    compute.set_defaults(run=_compute)
    remove = commands.add_parser("remove", help="remove a study that was computed here, and what is unfinished of it")
    remove.add_argument("name", metavar="NAME", help="a study's name or path")
    remove.add_argument("--yes", action="store_true", help="do not ask")
    remove.set_defaults(run=_remove)
    verify = commands.add_parser("verify", help="check every byte, and a sample of the pairs with plain hooks")
    verify.add_argument("name", metavar="NAME", help="a study's name or path")
    verify.add_argument("--sample", type=int, default=2048, help="(unit, image) pairs to compare (default: 2048)")
    verify.add_argument("--device", help="cpu, cuda (default: CUDA where it is present)")
    _add_file_arguments(verify)
    verify.set_defaults(run=_verify)
    lab = commands.add_parser(
        "lab", help="copy the notebooks to a folder of yours and open JupyterLab there", usage="%(prog)s [FOLDER] [-- OPTIONS]"
    )
    lab.add_argument(
        "arguments", nargs="*", metavar="FOLDER",
        help=f"where to (default: {default_folder()}); what you have changed there is kept. "
        "After --, options for JupyterLab: -- --no-browser --port 9000",
    )  # fmt: skip
    lab.set_defaults(run=_lab)
    return parser


def _add_file_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--weights", type=Path, metavar="FILE", help="weights that are here already, instead of a download")
    command.add_argument("--images", type=Path, metavar="FOLDER", help="images that are here already: a folder, zip or tar")
    command.add_argument("--any-weights", action="store_true", help="take a weights file of another hash; the study says so")


def _list(_: argparse.Namespace) -> int:
    table = catalog.studies().reset_index()
    table["size"] = [bytes_text(size) if size else "" for size in table["size"]]
    rows = [list(table.columns), *table.astype(str).values.tolist()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _info(given: argparse.Namespace) -> int:
    for path in catalog.stores_of(given.name):
        for line in _described(path):
            # a store of somebody else's may hold what a terminal obeys
            print("".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line))
    return 0


def _described(path: str | Path) -> Iterator[str]:
    """Lines that say what a store holds."""
    found = study_summary(path)
    yield f"{found.name}: {found.network}; {found.n_images} images of {found.images} in {found.categories} classes"
    for layer, ablations in found.layers.items():
        default = " (default)" if layer == found.attrs.get("default_layer") else ""
        for ablation in ablations:
            ds = open_study(path, layer, ablation)
            proof = "no sample was compared with plain hooks"
            if "verified_compared" in ds.attrs:
                proof = (
                    f"{ds.attrs['verified_compared']} pairs compared with plain hooks, {ds.attrs.get('verified_excused')} ties "
                    f"within float noise, {ds.attrs.get('verified_different')} different"
                )
            where = f" ({ds.attrs['unit_layout']})" if "unit_layout" in ds.attrs else ""
            units = units_named(ds.unit.values, int(ds.attrs.get("channels", ds.sizes["unit"])))
            undefined = undefined_attributes(ds)
            at = f"{ds.attrs.get('site')}{where}"
            yield f"  {layer}{default}, {ablation}: {units} at {at}, {ds.attrs.get('precision')}; {proof}"
            if is_screened(ds):
                share, missed = (
                    float(ds.attrs.get(f"screen_{name}", np.nan)) for name in ("evaluated_share", "missed_share_limit")
                )
                yield f"    screened: {share:.1%} of the live pairs evaluated, changed predictions missed: {missed:.2%} at most"
            if undefined:
                yield f"    undefined: {undefined}"
    for name, value in sorted(found.attrs.items()):
        if name not in ("name", "network", "images", "layers", "default_layer"):
            yield f"  {name} = {value}"
    yield f"  store = {path}"


def _remove(given: argparse.Namespace) -> int:
    target = catalog.computed_store(given.name)
    if not (target.exists() or shard_folder(target).exists()):
        target = Path(catalog.path_of(given.name))
        if bundled_folder() in target.resolve().parents:
            raise UnitlabError(f"'{given.name}' comes with unitlab, and nothing of it was computed here: nothing is removed")
        study_summary(target)
    there = [path for path in (target, shard_folder(target)) if path.exists()]
    size = bytes_text(sum(map(folder_bytes, there)))
    if not given.yes:
        print(f"remove {', '.join(map(str, there))} ({size})? [y/N] ", end="", flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            print("nothing is removed")
            return 1
    remove_study(target)
    left = catalog.stored_studies().get(given.name)
    print(f"removed {size}" + (f"; '{given.name}' is the {left[0][0]} study again" if left else ""))
    return 0


def _compute(given: argparse.Namespace) -> int:
    from tqdm.contrib.logging import logging_redirect_tqdm

    from unitlab.compute.estimate import estimate_of
    from unitlab.compute.files.recipe_files import RecipeFiles
    from unitlab.compute.sweep.request import SweepRequest
    from unitlab.compute.sweep.run import run_sweep

    name, store = given.name, given.store
    if name not in known_recipes() and (Path(name).exists() or name in catalog.stored_studies()):
        store = store or catalog.path_of(name)
        name = str(study_summary(catalog.path_of(given.name)).attrs.get("recipe", name))
    recipe = catalog.recipe(name)
    store = store or catalog.computed_store(name, units=given.units is not None, images=given.images is not None)
    decode = given.decode or (study_summary(store).attrs.get("decode") if Path(store).exists() else None)
    files = RecipeFiles(recipe, weights=given.weights, images=given.images, any_weights=given.any_weights, decode=decode)
    layers = given.layer or list(recipe.layers)
    units = None if given.units is None else units_in(given.units, "--units")
    request = SweepRequest(
        layers,
        units=units,
        ablation=given.ablation,
        precision=given.precision,
        memory=given.memory,
        unit_dim=given.unit_dim,
        screen=given.screen,
    )
    model, images = files.model(), files.images()
    if given.dry_run:
        print(estimate_of(model, images, request, store=store, device=given.device, attrs=files.attrs()))
        return 0
    files.remember()
    with logging_redirect_tqdm(), _client(given.scheduler) as client:
        found = run_sweep(model, images, request, store=store, device=given.device, attrs=files.attrs(), client=client)
    print(_table(list(found.values())[-1]))
    print(f"\nstudy: {store}")
    if catalog.computed_store(Path(store).stem) == store:
        print(f"open it: unitlab.load({Path(store).stem!r})")
    return 0


def _client(address: str | None) -> AbstractContextManager[Any]:
    """A client of the Dask scheduler, or None where no address is given."""
    if address is None:
        return nullcontext()
    try:
        from unitlab.compute.sweep.cluster import connected
    except ModuleNotFoundError as error:
        raise UnitlabError(f"--scheduler needs {error.name}; install unitlab with its extra 'cluster'") from error
    return connected(address)


def _verify(given: argparse.Namespace) -> int:
    from unitlab.compute.files.recipe_files import RecipeFiles
    from unitlab.compute.verify import verify

    model = images = None
    if given.weights is not None or given.images is not None:
        attrs = study_summary(catalog.path_of(given.name)).attrs
        files = RecipeFiles(
            catalog.recipe(str(attrs.get("recipe", given.name))), weights=given.weights, images=given.images,
            any_weights=given.any_weights, decode=attrs.get("decode"),
        )  # fmt: skip
        model, images = files.model(), files.images()
    found = verify(given.name, model, images, sample=given.sample, device=given.device)
    print(
        f"{given.name}: every byte is as written; {found.compared} (unit, image) pairs compared with plain hooks, "
        f"{found.excused} ties within float noise, {found.different} different"
    )
    if found.different:
        print(f"first difference: {found.first_difference}")
    return 1 if found.different else 0


def _lab(given: argparse.Namespace) -> int:
    named = [text for text in given.arguments[:1] if not text.startswith("-")]
    folder = Path(named[0]).expanduser() if named else default_folder()
    done = copy_notebooks(folder)
    print(f"{folder}: {len(done.written)} files written")
    for name in done.kept:
        print(f"  {name} has changes of yours and was kept; move it away and run this again to get the new one")
    open_lab(folder, given.arguments[len(named) :])
    return 0


def _table(ds: xr.Dataset) -> str:
    """The most damaging units, their worst classes, overall against max class drop, in points of accuracy."""
    if is_screened(ds):
        return _screened_table(ds)
    found = damage(ds)
    overall, top, worst = (found[name].values for name in ("overall_drop", "max_class_drop", "max_class"))
    fair, p = found.max_class_drop_crossfit.values, found.p_specific.values
    names = [str(name) for name in ds.category.values]
    width = max(12, *(len(names[k]) for k in worst))
    lines = [
        f"{ds.attrs['name']}, {ds.attrs['layer']}, {ds.attrs['ablation']} ablation: {len(overall)} units, "
        f"{ds.sizes['image']} images, {len(names)} classes, baseline accuracy {ds.attrs['baseline_overall_accuracy']:.1%}",
        "",
        f"{'unit':>5}  {'worst class':<{width}}  {'class drop':>10}  {'cross-fitted':>12}  {'p specific':>10}  "
        f"{'overall drop':>12}  points of accuracy",
    ]
    for row in np.argsort(-np.nan_to_num(fair, nan=-np.inf), kind="stable")[:SHOWN_UNITS]:
        lines.append(
            f"{int(ds.unit[row]):>5}  {names[worst[row]]:<{width}}  {100 * top[row]:>10.1f}  {100 * fair[row]:>12.1f}  "
            f"{p[row]:>10.3f}  {100 * overall[row]:>12.2f}"
        )
    lines += [
        "",
        f"mean over units: max class drop {100 * top.mean():.1f}, cross-fitted {100 * fair.mean():.1f}, overall drop "
        f"{100 * overall.mean():.2f}",
        "The largest drop over classes is biased upward; cross-fitted, its class is chosen on one half of the images and its "
        "drop measured on the other.",
        "p specific: chance of such damage if the same lost and won images fell on classes at random.",
        str(found.attrs["tested"]),
    ]
    return "\n".join(lines)


def _screened_table(ds: xr.Dataset) -> str:
    """The same of a study of which pairs were left out: what is known of it."""
    top, worst = leading(ds.accuracy_drop.values)
    overall, error, missed = (ds[name].values for name in ("overall_drop", "overall_drop_error", "accuracy_drop_missed"))
    names = [str(name) for name in ds.category.values]
    width = max(12, *(len(names[k]) for k in worst))
    lines = [
        f"{ds.attrs['name']}, {ds.attrs['layer']}, {ds.attrs['ablation']} ablation: {len(overall)} units, "
        f"{ds.sizes['image']} images, {len(names)} classes, baseline accuracy {ds.attrs['baseline_overall_accuracy']:.1%}",
        f"screened: {ds.attrs['screen_evaluated_share']:.1%} of the live pairs evaluated, no more than "
        f"{ds.attrs['screen_missed_share_limit']:.2%} of the changed predictions missed (95 %)",
        "",
        f"{'unit':>5}  {'worst class':<{width}}  {'class drop':>10}  {'missed at most':>14}  {'overall drop':>12}  points of "
        "accuracy",
    ]
    for row in np.argsort(-overall, kind="stable")[:SHOWN_UNITS]:
        lines.append(
            f"{int(ds.unit[row]):>5}  {names[worst[row]]:<{width}}  {100 * top[row]:>10.1f}  "
            f"{100 * missed[row, worst[row]]:>14.1f}  {100 * overall[row]:>12.2f} ± {100 * error[row]:.2f}"
        )
    lines += ["", f"mean over units: overall drop {100 * overall.mean():.2f}. Class drops are of the pairs evaluated."]
    return "\n".join(lines)
