"""The house has one direction: what each folder may import, no circle, and nobody imports the package itself."""

from __future__ import annotations

import ast
import graphlib
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "unitlab").rglob("*.py"))
BASE = {"errors", "files", "progress", "version"}
COMPUTE = {"compute.engine", "compute.images", "compute.networks", "compute.files", "compute.sweep"}
# folder or module → what of unitlab it may import besides itself; the longest name that fits a module holds
MAY_IMPORT = {
    "errors": set(),
    "files": set(),
    "named_studies": {"catalog"},
    "progress": set(),
    "version": set(),
    "bundled_images": BASE,
    "schema": BASE,
    "store": BASE | {"schema"},
    "recipes": BASE | {"bundled_images"},
    "catalog": BASE | {"bundled_images", "schema", "store", "recipes"},
    "analysis": BASE | {"schema"},
    "concepts": BASE | {"schema", "analysis", "bundled_images"},
    "compute.engine": {"errors"},
    "compute.images": {"errors", "bundled_images"},
    "compute.networks": {"errors", "files"},
    "compute.files": BASE | {"bundled_images", "recipes", "compute.images", "compute.networks"},
    "compute.sweep": BASE | {"schema", "store", "compute.engine", "compute.images"},
    "compute.places_networks": {"compute.networks"},
    "compute": BASE | COMPUTE | {"analysis", "bundled_images", "catalog", "concepts", "recipes", "schema", "store"},
    "views": BASE
    | {"analysis", "concepts", "catalog", "schema", "bundled_images", "named_studies", "recipes", "store"}
    | {"views.explorer.live_network"},
    "views.explorer.live_network": BASE
    | COMPUTE
    | {"compute", "views", "analysis", "bundled_images", "catalog", "schema", "recipes"},
    "lab": BASE,
    "cli": BASE | {"catalog", "lab", "recipes", "store", "analysis", "compute"} | COMPUTE,
    "__main__": {"cli"},
}


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in FILES}


def imports_of(path: Path, *, everywhere: bool = True) -> set[str]:
    """Modules of unitlab that a file imports, also under TYPE_CHECKING and, ``everywhere``, inside functions."""
    found: set[str] = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "unitlab"}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "unitlab":
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else str(node.module) for name in full}
    return found


def place_of(module: str) -> str:
    """The longest entry of the table that a module belongs to."""
    name = module.removeprefix("unitlab.")
    return max((place for place in MAY_IMPORT if f"{name}.".startswith(f"{place}.")), key=len, default=name)


def test_every_folder_imports_only_what_it_may() -> None:
    wrong = []
    for module, path in MODULES.items():
        if module == "unitlab":
            continue
        here = place_of(module)
        for used in imports_of(path) - {module}:
            there = place_of(used)
            if there != here and there not in MAY_IMPORT[here]:
                wrong.append(f"{module} imports {used}")
    assert not wrong, "\n".join(sorted(wrong))


def test_views_compute_only_inside_functions() -> None:
    path = MODULES["unitlab.views.explorer.live_network"]
    assert any("unitlab.compute" in name for name in imports_of(path))
    assert not [name for name in imports_of(path, everywhere=False) if name.startswith("unitlab.compute")]


def test_nobody_imports_the_package_itself() -> None:
    assert not [module for module, path in MODULES.items() if "unitlab" in imports_of(path)]


def test_there_is_no_circle() -> None:
    graph = {module: (imports_of(path) & set(MODULES)) - {module} for module, path in MODULES.items()}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_no_folder_is_crowded() -> None:
    crowded = {
        str(folder.relative_to(ROOT)): count
        for folder in {path.parent for path in FILES}
        if (count := sum(path.parent == folder for path in FILES)) > 20
    }
    assert not crowded
