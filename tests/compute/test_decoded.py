"""decode="gpu": pictures go to the device in bytes, where torch resizes them; studies of both kinds stay apart."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from make_believe_gpu import make_believe_gpu
from PIL import Image
from small_networks import CLASSES, FunctionalReLU
from torchvision import transforms

import unitlab
from unitlab import UnitlabError, catalog
from unitlab.bundled_images import bundled_images
from unitlab.cli import main
from unitlab.compute.engine.host_copies import InTurn
from unitlab.compute.engine.torch_state import exact_float32
from unitlab.compute.files.recipe_files import RecipeFiles
from unitlab.compute.images.decoded import BicubicDeviceTransform, DecodedImages, DeviceTransform
from unitlab.compute.images.source import ImageSource
from unitlab.compute.sweep.fingerprints import source_fingerprints
from unitlab.compute.sweep.plan import plan_sweep
from unitlab.compute.sweep.request import SweepRequest
from unitlab.compute.sweep.shards import ShardComputation
from unitlab.recipes import RECIPES, Transform
from unitlab.store.study import open_study

MEAN, DEVIATION = (0.5, 0.4, 0.3), (0.2, 0.3, 0.1)
SMALL = DeviceTransform(20, 17, MEAN, DEVIATION)
COUNT, BATCH = 16, 8


def by_pillow(of: DeviceTransform) -> transforms.Compose:
    shown = [transforms.Resize(of.resize), transforms.CenterCrop(of.crop), transforms.ToTensor()]
    return transforms.Compose([*shown, transforms.Normalize(of.mean, of.deviation)])


def picture(rows: int, columns: int, seed: int = 0) -> Image.Image:
    """Shapes and noise."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (5, 7, 3), np.uint8)).resize((columns, rows), Image.Resampling.BICUBIC)
    noisy = np.asarray(coarse, np.int64) + random.integers(-20, 21, (rows, columns, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def write(folder: Path) -> Path:
    for number in range(COUNT):
        path = folder / f"class {number % CLASSES}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(24 + 3 * number, 60 - 2 * number, number).save(path)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "pictures")


def source_of(folder: Path, transform: Any = SMALL) -> ImageSource:
    return unitlab.images(folder, transform=transform)


def weights(length: int, size: int, *, cubic: bool = False) -> np.ndarray:
    """Of an antialiased resize, (new, old) in float64: a triangle two new pixels wide, or two old ones; or Keys' cubic."""
    scale = length / size
    away = np.abs(np.arange(length) + 0.5 - (np.arange(size) + 0.5)[:, None] * scale) / max(scale, 1)
    found = (1 - away).clip(0)
    if cubic:
        near, far = 1.5 * away**3 - 2.5 * away**2 + 1, -0.5 * away**3 + 2.5 * away**2 - 4 * away + 2
        found = np.where(away < 1, near, np.where(away < 2, far, 0))
    return found / found.sum(1, keepdims=True)


@pytest.mark.parametrize("kind", [DeviceTransform, BicubicDeviceTransform])
@pytest.mark.parametrize(
    ("resize", "crop", "rows", "columns"),
    [(64, 56, 131, 97), (64, 56, 70, 201), (48, 64, 37, 30), ((40, 52), 36, 300, 45), (64, 64, 64, 64)],
)
def test_pixels_are_those_of_an_antialiased_resize_in_float64_and_near_to_pillows(
    resize: int | tuple[int, int], crop: int, rows: int, columns: int, kind: type[DeviceTransform]
) -> None:
    of, shown, cubic = kind(resize, crop, MEAN, DEVIATION), picture(rows, columns), kind is BicubicDeviceTransform
    size = resize
    if isinstance(size, int):
        size = (resize, resize * columns // rows) if rows < columns else (resize * rows // columns, resize)
    down, across = weights(rows, size[0], cubic=cubic), weights(columns, size[1], cubic=cubic)
    resized = np.einsum("ar,rcn,bc->nab", down, np.asarray(shown, np.float64), across).clip(0, 255)
    exact = transforms.functional.center_crop(torch.from_numpy(resized), [crop, crop])
    bytes_of = torch.tensor(DEVIATION).view(3, 1, 1) * 255, torch.tensor(MEAN).view(3, 1, 1) * 255
    found = of(shown)
    assert found.dtype == torch.float32 and found.shape == (3, crop, crop)
    assert (found * bytes_of[0] + bytes_of[1] - exact).abs().max() < 1e-3
    # Pillow rounds to bytes after each direction: half of one, and half of one again
    assert cubic or ((found - by_pillow(of)(shown)) * bytes_of[0]).abs().max() <= 1.01


def test_a_network_predicts_the_same_of_nearly_all_images(tmp_path: Path) -> None:
    emoji = bundled_images("emoji")
    some = np.arange(0, len(emoji.ids), len(emoji.ids) // 60)
    shown = [Image.fromarray(pixels).resize((150, 130), Image.Resampling.BICUBIC) for pixels in emoji.pictures[some]]
    of = DeviceTransform((64, 64), 64, tuple(emoji.mean), tuple(emoji.deviation))
    model = unitlab.network("vgg_emoji")
    with torch.no_grad():
        here, there = (model(torch.stack([way(one) for one in shown])).argmax(1) for way in (of, by_pillow(of)))
    assert (here == there).float().mean() >= 0.98


def shards(source: ImageSource, device: str) -> tuple[Any, list[Any]]:
    torch.manual_seed(5)
    with exact_float32():
        plan = plan_sweep(FunctionalReLU().eval(), source, SweepRequest(["conv1"], batch_size=BATCH), device)
        computation = ShardComputation(plan, source, plan.replacements(None, COUNT))
        return plan, [shard().to_arrays() for shard in computation.shards([(0, COUNT)], lambda _: None)]


def test_a_gpu_gets_bytes_without_a_wait_and_gives_what_the_cpu_gives(folder: Path) -> None:
    here, [expected] = shards(source_of(folder), "cpu")
    with make_believe_gpu([(ShardComputation, "begin", "begun"), (InTurn, "step", "batch")]) as gpu:
        there, [found] = shards(source_of(folder), "cuda")
    assert not gpu.of("violation") and gpu.entered["begun"] == COUNT // BATCH
    assert not gpu.of("upload", "batch") and "decoded.py" not in str(gpu.of("wait", "batch"))
    assert here.fingerprint["pixels"] == there.fingerprint["pixels"]
    assert set(expected) == set(found)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-3, atol=1e-4, err_msg=name)


def test_what_is_pinned_is_bytes_of_any_size_and_the_same_pixels_in_halves(folder: Path) -> None:
    source = source_of(folder)
    with make_believe_gpu():
        [batch] = source.stream([range(4)], pinned=True)
    assert isinstance(batch.pixels, DecodedImages) and len({one.shape for one in batch.pixels.pictures}) == 4
    cpu, plain = torch.device("cpu"), source.at(range(4))
    assert torch.equal(batch.pixels.on(cpu), plain)
    assert torch.equal(batch.pixels[2:].on(cpu), plain[2:])
    # the hashes say what was decoded, whoever finished it, and how
    otherwise = source_of(folder, DeviceTransform(21, 17, MEAN, DEVIATION))
    [again], [other] = (read.stream([range(4)]) for read in (source, otherwise))
    assert np.array_equal(batch.hashes, again.hashes) and not (batch.hashes == other.hashes).all(1).any()
    # so does the fingerprint, whatever processor gave the last digits
    prints = [source_fingerprints(source, few)["pixels"] for few in (plain, plain + 1e-6)]
    assert prints[0] == prints[1] != source_fingerprints(otherwise, plain)["pixels"]
    assert torch.equal(pickle.loads(pickle.dumps(source)).at(range(4)), plain)


def recipe(folder: Path, name: str = "mine", **changes: Any) -> None:
    given = {"images": folder, "layers": "conv1", "transform": Transform(20, 17, MEAN, DEVIATION), "decode": "gpu"}
    unitlab.add_recipe(name, **{"network": "small_networks:FunctionalReLU", **given, **changes})


def test_studies_of_both_kinds_are_not_merged(folder: Path, tmp_path: Path) -> None:
    recipe(folder)
    recipe(folder, "pillows", decode="cpu")
    here, there = (RecipeFiles(catalog.recipe(name)).images() for name in ("mine", "pillows"))
    assert here.transform == SMALL and not isinstance(there.transform, DeviceTransform)
    model = FunctionalReLU().eval()
    store = tmp_path / "study.zarr"
    unitlab.ablate(model, here, "conv1", units=[0], store=store, device="cpu", progress=False)
    with pytest.raises(UnitlabError, match=r"other pixels .*or a transform that differs"):
        unitlab.ablate(model, there, "conv1", units=[1], store=store, device="cpu", progress=False)
    unitlab.ablate(model, source_of(folder), "conv1", units=[1], store=store, device="cpu", progress=False)
    ds = open_study(store, "conv1")
    assert ds.unit.values.tolist() == [0, 1] and "DeviceTransform" in ds.attrs["transform"]


def test_an_estimate_reads_as_a_sweep_on_a_gpu_does(folder: Path) -> None:
    with make_believe_gpu() as gpu:
        found = unitlab.estimate(FunctionalReLU().eval(), source_of(folder), "conv1", device="cuda")
    assert found.seconds_per_read > 0 and not gpu.of("violation")


@pytest.mark.parametrize(
    "changes",
    [
        {"transform": transforms.ToTensor()}, {"transform": None}, {"images": "emoji"}, {"decode": "tpu"},
    ],
)  # fmt: skip
def test_what_cannot_be_done_on_a_gpu_is_refused(folder: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(UnitlabError, match=r"decode='.pu' .*unitlab\.recipes\.Transform.* give decode='cpu', or such"):
        recipe(folder, **changes)


FILES = {name: of for name, of in RECIPES.items() if of.images.address not in ("emoji", "fashion_mnist")}
RENDERED = {name for name, of in FILES.items() if of.images.made_by}


@pytest.mark.parametrize("name", sorted(FILES.keys() - RENDERED))
def test_a_shipped_recipes_transform_on_a_gpu_is_near_to_its_own_on_a_cpu(name: str, tmp_path: Path) -> None:
    """Of JPEG files, by torch and by Pillow, which rounds to bytes after each direction: half of 255 parts twice; where weights
    below zero overshoot, it also cuts off what lies beyond them twice."""
    for number, (rows, columns) in enumerate(((300, 480), (420, 260), (256, 256))):
        picture(rows, columns, number).save(tmp_path / f"{number}.jpg", quality=95)
    here, there = (RecipeFiles(FILES[name], network_only=True, decode=way).transform() for way in ("gpu", "cpu"))
    assert here is not None and there is not None and isinstance(here, DeviceTransform)
    most = 1.01 if type(here) is DeviceTransform else 3.0
    for path in sorted(tmp_path.iterdir()):
        found, expected = here(Image.open(path)), there(Image.open(path).convert("RGB"))
        assert found.shape == expected.shape
        away = (found - expected).abs() * torch.tensor(here.deviation).view(3, 1, 1) * 255
        assert away.max() <= most and away.mean() < 0.4


def test_efficientnet_b0_alone_is_resized_bicubically_and_its_fingerprint_says_so(tmp_path: Path) -> None:
    kinds = {name: RecipeFiles(FILES[name], network_only=True, decode="gpu").transform() for name in FILES.keys() - RENDERED}
    bicubic = {name for name, of in kinds.items() if repr(of).startswith("BicubicDeviceTransform(resize=256, crop=224")}
    assert bicubic == {"efficientnet_b0_imagenet"}
    assert all(repr(of).startswith("DeviceTransform(") for name, of in kinds.items() if name not in bicubic)


@pytest.mark.parametrize("name", sorted((RECIPES.keys() - FILES.keys()) | RENDERED))
def test_shipped_recipes_whose_images_are_no_files_refuse_it(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compute", name, "--decode", "gpu", "--images", str(Path(__file__).parent)]) == 2
    assert "give decode='cpu'" in capsys.readouterr().err


def test_pictures_without_a_range_are_refused() -> None:
    with pytest.raises(ValueError, match="of mode F; give decode='cpu'"):
        SMALL(Image.new("F", (30, 30)))
