"""Folders of pictures as people have them: what is read, how, in which order, and what is said about it."""

from __future__ import annotations

import io
import logging
import struct
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import TensorDataset
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.models import ResNet18_Weights
from torchvision.transforms import ToTensor

import unitlab
from unitlab import UnitlabError

NUMBERS = [str(number) for number in range(12)]
AS_TEXT = ["0", "1", "10", "11", *NUMBERS[2:10]]


class Classes(nn.Module):
    """Few units, so many classes."""

    def __init__(self, classes: int, channels: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(channels, 4, 3)
        self.fc = nn.Linear(4, classes)

    def forward(self, images):
        return self.fc(self.conv(images).relu().mean((2, 3)))


def picture(path, level=128, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (8, 6), (level,) * 3 if mode == "RGB" else level).save(path)
    return path


def ablated(source, classes, store=None):
    return unitlab.ablate(Classes(classes).eval(), source, "conv", store=store, progress=False, device="cpu")


@pytest.fixture
def numbered(tmp_path):
    """Twelve classes called by their number; the grey level of the pictures is the number."""
    for number in NUMBERS:
        picture(tmp_path / "numbered" / number / "a.png", 10 * int(number))
    return tmp_path / "numbered"


def test_folders_that_are_numbers_are_in_the_order_of_numbers(numbered, caplog):
    with caplog.at_level(logging.INFO, "unitlab"):
        source = unitlab.images(numbered)
    assert source.categories == NUMBERS
    level = [round(255 * float(image.mean())) for image in source.at(range(12))]
    assert level == [10 * label for label in source.labels]
    assert "order of their numbers" in repr(source) and "order of their numbers" in caplog.text
    given = unitlab.images(numbered, categories=AS_TEXT)
    assert given.categories == AS_TEXT and "numbers" not in repr(given)
    assert given.ids == source.ids


@pytest.mark.parametrize("names", [["0", "00", "1"], ["01", "02", "10"], ["1", "10", "2", "x"]])
def test_other_names_are_in_the_order_of_text(tmp_path, names):
    for name in names:
        picture(tmp_path / name / "a.png")
    source = unitlab.images(tmp_path)
    assert source.categories == names and "numbers" not in repr(source)


def test_a_study_of_numbers_sorted_as_text_is_refused_with_what_restores_it(numbered, tmp_path):
    store = tmp_path / "old.zarr"
    before = unitlab.images(numbered, categories=AS_TEXT)
    ablated(before, 12, store)
    for again in (
        lambda images: ablated(images, 12, store),
        lambda images: unitlab.verify(store, Classes(12).eval(), images),
        lambda images: unitlab.estimate(Classes(12).eval(), images, "conv", store=store, device="cpu"),
    ):
        with pytest.raises(UnitlabError, match=r"categories=\['0', '1', '10', '11', '2'"):
            again(unitlab.images(numbered))
        again(before)
    assert ablated(unitlab.images(numbered), 12, tmp_path / "new.zarr").category.values.tolist() == NUMBERS


def test_an_unfinished_sweep_of_numbers_sorted_as_text_is_refused_too(numbered, tmp_path, monkeypatch):
    def cut_off(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr("unitlab.compute.sweep.run.write_study", cut_off)
    with pytest.raises(KeyboardInterrupt):
        ablated(unitlab.images(numbered, categories=AS_TEXT), 12, tmp_path / "old.zarr")
    with pytest.raises(UnitlabError, match=r"categories=\['0', '1', '10', '11', '2'"):
        ablated(unitlab.images(numbered), 12, tmp_path / "old.zarr")


@pytest.fixture
def photos(tmp_path):
    """Two classes with two pictures each."""
    for name in ("cat/a", "cat/b", "dog/a", "dog/b"):
        picture(tmp_path / "photos" / f"{name}.png")
    return tmp_path / "photos"


def test_what_archives_and_systems_leave_is_skipped_and_counted(photos, caplog):
    picture(photos / "__MACOSX" / "cat" / "._a.png")
    for junk in ("cat/._a.png", "dog/._b.png", "cat/.DS_Store", "dog/Thumbs.db", "dog/__MACOSX/x.png", "dog/new.heic"):
        (photos / junk).parent.mkdir(exist_ok=True)
        (photos / junk).write_bytes(b"no picture")
    with caplog.at_level(logging.INFO, "unitlab"):
        source = unitlab.images(photos)
    assert source.ids == ["cat/a.png", "cat/b.png", "dog/a.png", "dog/b.png"] and source.categories == ["cat", "dog"]
    for said in (repr(source), caplog.text):
        assert "5 files skipped (2 ._*, 1 .DS_Store, " in said and "1 Thumbs.db" in said and "1 .heic" in said
    assert len(source.at(range(4))) == 4


@pytest.mark.parametrize(
    ("parts", "meant"), [(("train", "val"), "val"), (("test", "train"), "train"), (("Validation",), "Valid")]
)
def test_parts_of_a_data_set_are_no_classes(tmp_path, parts, meant):
    for part in parts:
        picture(tmp_path / part / "cat" / "a.png")
    with pytest.raises(UnitlabError, match=rf"unitlab\.images\('.*{meant}"):
        unitlab.images(tmp_path)
    with pytest.raises(UnitlabError, match=rf"unitlab\.images\('.*{meant}"):
        unitlab.images(tmp_path, categories=["cat"])
    assert unitlab.images(tmp_path, categories=parts).categories == list(parts)
    assert unitlab.images(tmp_path / parts[-1]).categories == ["cat"]


def test_classes_that_are_called_as_parts_are(tmp_path):
    for name in ("test", "train", "val"):
        picture(tmp_path / name / "a.png")
    assert unitlab.images(tmp_path).categories == ["test", "train", "val"]


def test_further_kinds_of_files_and_linked_folders_are_read(photos, tmp_path):
    (photos / "cat" / "c.jfif").write_bytes(picture(tmp_path / "x.jpg", 200).read_bytes())
    picture(photos / "dog" / "c.avif", 200)
    picture(tmp_path / "elsewhere" / "d.png", 250)
    (photos / "dog" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(photos / "dog")  # a circle
    source = unitlab.images(photos)
    assert [i for i in source.ids if "c." in i or "d." in i] == ["cat/c.jfif", "dog/c.avif", "dog/linked/d.png"]
    level = dict(zip(source.ids, (255 * source.at(range(len(source))).mean((1, 2, 3))).tolist(), strict=True))
    assert abs(level["cat/c.jfif"] - 200) < 2 and abs(level["dog/c.avif"] - 200) < 4 and level["dog/linked/d.png"] == 250


def test_kinds_that_pillow_cannot_read_are_counted_and_named(photos, monkeypatch):
    (photos / "dog" / "c.avif").write_bytes(b"no picture")
    monkeypatch.setattr(Image, "registered_extensions", lambda: {".jpg": "JPEG"})
    assert "1 file skipped (1 .avif)" in repr(unitlab.images(photos))


# facts of ILSVRC2012: wnid → number and torchvision's name
IMAGENET = {
    "n01440764": (0, "tench"),
    "n02123045": (281, "tabby"),
    "n03126707": (517, "crane"),
    "n15075141": (999, "toilet tissue"),
}


def test_wordnet_ids_are_understood_beside_the_names_of_torchvision(tmp_path):
    names = list(ResNet18_Weights.DEFAULT.meta["categories"])
    for wnid in reversed(IMAGENET):
        picture(tmp_path / wnid / "a.png")
    source = unitlab.images(tmp_path, categories=names)
    assert source.labels.tolist() == [number for number, _ in IMAGENET.values()] and source.categories == names
    assert ablated(source, 1000).label.values.tolist() == [0, 281, 517, 999]
    # by name, whatever the order of the logits, and however many there are
    some = ["toilet tissue", "another", *[name for _, name in IMAGENET.values() if name != "toilet tissue"]]
    assert unitlab.images(tmp_path, categories=some).labels.tolist() == [2, 3, 4, 0]
    assert unitlab.images(tmp_path, categories=list(IMAGENET)).labels.tolist() == [0, 1, 2, 3]
    with pytest.raises(UnitlabError, match="'n15075141' that is no category"):
        unitlab.images(tmp_path, categories=names[:-1])
    picture(tmp_path / "n00000001" / "a.png")
    with pytest.raises(UnitlabError, match="'n00000001' that is no category"):
        unitlab.images(tmp_path, categories=names)


# how a picture is read

GREY = np.arange(0, 65536, 1366, dtype=np.uint16)[:48].reshape(6, 8)
COLOURS = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)


def read_one(tmp_path, content, name="x.png", **keywords):
    """The tensor and the thumbnail of one file."""
    path = tmp_path / "one" / "a" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content.save(path)
    batch = next(unitlab.images(tmp_path / "one", **keywords).stream([[0]], thumbnails=True))
    path.unlink()
    return batch.pixels[0], batch.thumbnails[0]


def encoded(image, kind, **keywords):
    file = io.BytesIO()
    image.save(file, kind, **keywords)
    return file.getvalue()


def in_0_to_1(rows):
    return torch.from_numpy(np.ascontiguousarray(rows)).permute(2, 0, 1).float() / 255


# (orientation → what undoes it, of rows and columns), from the EXIF standard
TURNED = {
    1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1], 5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1), 7: lambda a: a[::-1, ::-1].swapaxes(0, 1), 8: lambda a: np.rot90(a),
}  # fmt: skip


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("kind", ["png", "webp", "tiff"])
def test_pictures_are_upright_for_network_thumbnail_and_transform(tmp_path, orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(Image.fromarray(COLOURS), kind, exif=exif, **({"lossless": True} if kind == "webp" else {}))
    expected, seen = TURNED[orientation](COLOURS), []

    def transform(picture):
        seen.append(np.array(picture))
        return in_0_to_1(seen[-1])

    for given in (None, transform):
        pixels, thumbnail = read_one(tmp_path, content, f"x.{kind}", transform=given)
        assert torch.equal(pixels, in_0_to_1(expected)) and np.array_equal(thumbnail, expected)
    assert all(np.array_equal(picture, expected) for picture in seen)


def test_a_damaged_exif_block_says_nothing(tmp_path):
    exif = b"garbage that is no directory"
    assert read_one(tmp_path, encoded(Image.new("RGB", (8, 6), "red"), "png", exif=exif))[0].shape == (3, 6, 8)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "palette with alpha"])
def test_what_is_transparent_is_on_white(tmp_path, mode):
    alpha = np.linspace(0, 255, 48).astype(np.uint8).reshape(6, 8)
    colours = np.repeat(COLOURS[..., :1], 3, 2) if mode == "LA" else COLOURS
    if mode == "P":
        flat = Image.fromarray(COLOURS).quantize(4)
        content, colours = encoded(flat, "png", transparency=2), np.asarray(flat.convert("RGB"))
        alpha = np.where(np.asarray(flat) == 2, 0, 255)
    elif mode == "palette with alpha":
        flat = Image.fromarray(COLOURS).quantize(4)
        steps = np.array([0, 100, 200, 255])
        content, colours = encoded(flat, "png", transparency=bytes(steps.tolist())), np.asarray(flat.convert("RGB"))
        alpha = steps[np.asarray(flat)]
    else:
        image = Image.fromarray(np.dstack([COLOURS, alpha]))
        if mode == "LA":
            image = Image.merge("LA", [Image.fromarray(COLOURS[..., 0]), Image.fromarray(alpha)])
        content = encoded(image, "png")
    share = alpha[..., None] / 255
    expected = share * colours + (1 - share) * 255
    pixels, thumbnail = read_one(tmp_path, content)
    assert np.abs(255 * pixels.permute(1, 2, 0).numpy() - expected).max() <= 1
    assert np.abs(thumbnail - expected).max() <= 1
    assert (alpha == 0).any() and (np.round(255 * pixels.permute(1, 2, 0).numpy())[alpha == 0] == 255).all()


def test_cmyk_is_read_as_its_marker_says(tmp_path):
    ink = (0, 200, 255, 10)  # Adobe's files hold 255 minus the ink, others the ink
    expected = np.array([(255 - part) * (255 - ink[3]) / 255 for part in ink[:3]])
    adobe = encoded(Image.new("CMYK", (16, 16), ink), "jpeg", quality=100)
    negative = encoded(Image.new("CMYK", (16, 16), tuple(255 - part for part in ink)), "jpeg", quality=100)
    start = negative.index(b"\xff\xee")
    plain = negative[:start] + negative[start + 2 + int.from_bytes(negative[start + 2 : start + 4], "big") :]
    assert b"Adobe" in adobe and b"Adobe" not in plain
    tiff = encoded(Image.new("CMYK", (16, 16), ink), "tiff")
    for content, name in ((adobe, "x.jpg"), (plain, "x.jpg"), (tiff, "x.tif")):
        pixels, thumbnail = read_one(tmp_path, content, name)
        assert np.abs(255 * pixels.mean((1, 2)).numpy() - expected).max() < 2
        assert np.abs(thumbnail.mean((0, 1)) - expected).max() < 2


def tiff(values, bits, order="<"):
    """A TIFF of grey values with 12 or 16 bits each, as the standard has it."""
    height, width = values.shape
    if bits == 12:
        packed = "".join(f"{value:012b}" for value in values.flat)
        data = int(packed, 2).to_bytes(len(packed) // 8, "big")
    else:
        data = values.astype(f"{order}u2").tobytes()
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, 1), (273, 8), (277, 1), (278, height), (279, len(data))]
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags)
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8 + len(data))
    return head + data + struct.pack(f"{order}H", len(tags)) + entries + bytes(4)


@pytest.mark.parametrize("kind", ["png", "tiff", "big-endian tiff", "12 bits", "pgm"])
def test_grey_of_16_bits_is_scaled_by_its_depth(tmp_path, kind):
    content, name, most = encoded(Image.fromarray(GREY), "png"), "x.png", 65535
    if "tiff" in kind:
        content, name = tiff(GREY, 16, ">" if "big" in kind else "<"), "x.tif"
    elif kind == "12 bits":
        content, name, most = tiff(GREY >> 4, 12), "x.tif", 4095
    elif kind == "pgm":
        content, name = b"P5 8 6 65535\n" + GREY.astype(">u2").tobytes(), "x.pgm"
    expected = (GREY >> 4 if most == 4095 else GREY) / most
    pixels, thumbnail = read_one(tmp_path, content, name)
    assert pixels.shape == (3, 6, 8) and np.abs(pixels.numpy() - expected).max() < 1e-5
    assert np.abs(thumbnail - 255 * expected[..., None]).max() <= 0.51
    seen = read_one(tmp_path, content, name, transform=lambda picture: in_0_to_1(np.array(picture)))[0]
    assert np.abs(255 * seen.numpy() - 255 * expected).max() <= 0.51


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_values_without_a_range_need_a_transform(tmp_path, dtype):
    content = encoded(Image.fromarray(GREY.astype(dtype)), "tiff")
    with pytest.raises(UnitlabError, match=r"a/x\.tif.*transform=lambda"):
        read_one(tmp_path, content, "x.tif")
    scaled = lambda picture: torch.from_numpy(np.array(picture, np.float32) / 65535).expand(3, -1, -1)  # noqa: E731
    pixels, thumbnail = read_one(tmp_path, content, "x.tif", transform=scaled)
    assert np.abs(pixels.numpy() - GREY / 65535).max() < 1e-6
    assert thumbnail.min() == 0 and thumbnail.max() == 255


@pytest.fixture
def sideways(photos):
    """Two of the four pictures are read otherwise than before: one turned by EXIF, one transparent."""
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(COLOURS).save(photos / "cat" / "a.png", exif=exif)
    Image.fromarray(np.dstack([COLOURS, COLOURS[..., 0]])).save(photos / "dog" / "b.png")
    return photos


def test_a_study_says_how_pictures_were_read_and_older_ones_go_on_as_they_were(sideways, tmp_path, monkeypatch):
    def before(source):
        return source.as_before()

    (sideways / "dog" / "c.avif").write_bytes(encoded(Image.fromarray(COLOURS), "avif"))
    now = unitlab.images(sideways)
    ds = ablated(now, 2, tmp_path / "new.zarr")
    assert "upright" in ds.attrs["reading"] and ds.attrs["fingerprint_reading"]
    ablated(now, 2, tmp_path / "new.zarr")
    assert unitlab.verify(tmp_path / "new.zarr", Classes(2).eval(), now).different == 0

    # torchvision's own reader, which is what older versions used
    old = before(now)
    theirs = ImageFolder(sideways, ToTensor(), is_valid_file=lambda path: path.endswith(".png"))
    assert old.ids == unitlab.images(theirs).ids and torch.equal(old.at(range(4)), unitlab.images(theirs).at(range(4)))
    store = tmp_path / "old.zarr"
    attrs = ablated(old, 2, store).attrs
    assert "reading" not in attrs and "fingerprint_reading" not in attrs
    for images in (now, old):
        assert unitlab.verify(store, Classes(2).eval(), images).different == 0
        assert unitlab.estimate(Classes(2).eval(), images, "conv", store=store, device="cpu").complete
        assert ablated(images, 2, store).attrs["fingerprint_content_images"] == attrs["fingerprint_content_images"]
    with pytest.raises(UnitlabError, match=r"other (pixels|images|reading)"):
        ablated(old, 2, tmp_path / "new.zarr")

    def cut_off(*_args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("unitlab.compute.sweep.run.write_study", cut_off)
        ablated(old, 2, tmp_path / "cut.zarr")
    assert ablated(now, 2, tmp_path / "cut.zarr").attrs["fingerprint_content_images"] == attrs["fingerprint_content_images"]


def test_parts_of_the_images_are_read_by_the_same_rules(sideways):
    source = unitlab.images(sideways)
    part = source.subset([3, 0])
    assert torch.equal(part.at([0, 1]), source.at([3, 0]))
    assert torch.equal(part.as_before().at([0, 1]), source.as_before().at([3, 0]))
    assert not torch.equal(part.as_before().at([0, 1]), part.at([0, 1]))


# what cannot be read


def cut(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])


@pytest.fixture
def noisy(tmp_path):
    """Twelve pictures of two classes, of noise, so that their files are long."""
    random = np.random.default_rng(0)
    for position in range(12):
        path = tmp_path / "noisy" / "ab"[position % 2] / f"{position:02d}.{'jpg' if position < 6 else 'png'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    return tmp_path / "noisy"


def test_damaged_files_are_all_named_before_a_sweep(noisy, monkeypatch):
    cut(noisy / "b" / "05.jpg", 0.7)
    cut(noisy / "a" / "10.png", 0.7)
    (noisy / "b" / "11.png").write_bytes(b"no picture")
    tail = noisy / "a" / "04.jpg"
    tail.write_bytes(tail.read_bytes() + bytes(10_000))  # as cameras add their own data
    source = unitlab.images(noisy)
    monkeypatch.setattr("unitlab.compute.sweep.run.plan_sweep", lambda *_: pytest.fail("the sweep began"))
    with pytest.raises(
        UnitlabError, match=r"3 files cannot be read.*a/10\.png.*b/05\.jpg.*b/11\.png.*unreadable='skip'"
    ) as told:
        ablated(source, 2)
    assert "04.jpg" not in str(told.value)
    with pytest.raises(UnitlabError, match="3 files cannot be read"):
        unitlab.estimate(Classes(2).eval(), source, "conv", device="cpu")
    cut(noisy / "a" / "00.jpg", 0.7)
    with pytest.raises(UnitlabError, match="4 files cannot be read"):  # one of those that are read at once
        unitlab.images(noisy)


def test_a_later_failure_names_all_that_cannot_be_decoded(noisy):
    for name in ("a/08.png", "b/09.png", "b/11.png"):  # ends as it should, with a hole before
        content = bytearray((noisy / name).read_bytes())
        content[500:9000] = bytes(8500)
        (noisy / name).write_bytes(content)
    source = unitlab.images(noisy)
    source.refuse_damaged()
    with pytest.raises(UnitlabError, match=r"08\.png.*2 more cannot be read: b/09\.png, b/11\.png"):
        list(source.batches(0, 12, 5))


def test_unreadable_files_are_left_out_where_that_is_asked_for(noisy, monkeypatch):
    ids = [f"image {position}" for position in range(12)]
    for name in ("a/00.jpg", "b/11.png"):
        cut(noisy / name, 0.7)
    source = unitlab.images(noisy, unreadable="skip", ids=ids)
    assert source.ids == ids[1:-1] and source.labels.tolist() == [0] * 5 + [1] * 5
    assert "2 unreadable left out (a/00.jpg, b/11.png)" in repr(source)
    assert ablated(source, 2).sizes["image"] == 10
    read = []
    monkeypatch.setattr("unitlab.compute.images.pictures.picture_file", read.append)
    again = unitlab.images(noisy, unreadable="skip")
    assert not read and len(again) == 10
    for given in ({"source": noisy, "unreadable": "ignore"}, {"source": "emoji", "unreadable": "drop"}):
        with pytest.raises(UnitlabError, match="unreadable="):
            unitlab.images(**given)
    with pytest.raises(UnitlabError, match="unreadable='skip'"):
        unitlab.images(ImageFolder(noisy), unreadable="skip")


# what belongs together


def test_clusters_are_given_for_each_image_or_by_its_id(noisy, tmp_path):
    patients = ["p1", "p2", "p1", "p3", "p3", "p2", "p1", "p1", "p2", "p3", "p4", "p4"]
    expected = [0, 1, 0, 2, 2, 1, 0, 0, 1, 2, 3, 3]
    source = unitlab.images(noisy, clusters=patients)
    assert source.clusters.tolist() == expected
    numbers = unitlab.images(noisy, clusters=np.array([7, 5, 7, 3, 3, 5, 7, 7, 5, 3, 9, 9]))
    assert numbers.clusters.tolist() == expected
    by_id = unitlab.images(noisy, clusters=lambda name: name.partition("/")[2][:1])  # "00.jpg" … "11.png"
    assert [by_id.clusters[by_id.ids.index(name)] for name in ("a/00.jpg", "b/09.png", "a/10.png", "b/11.png")] == [0, 0, 1, 1]
    assert ablated(source, 2, tmp_path / "study.zarr").cluster.values.tolist() == expected
    for wrong, message in ((patients[:-1], "11 clusters are given for 12"), ([[1]] * 12, "names or numbers")):
        with pytest.raises(UnitlabError, match=message):
            unitlab.images(noisy, clusters=wrong)
    with pytest.raises(UnitlabError, match="its own clusters"):
        unitlab.images("emoji", clusters=lambda name: name)


# labelled images in memory

BATCH = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = [0, 2, 1, 4, 4, 0]


class Items(list):
    """As Hugging Face's datasets: items by position, columns by name, and their features."""

    def __init__(self, key, label):
        super().__init__({key: Image.fromarray(COLOURS + np.uint8(k)), label: LABELS[k]} for k in range(6))
        self.features = {key: None, label: SimpleNamespace(names=list("abcde"))}

    def __getitem__(self, asked):
        return [item[asked] for item in self] if isinstance(asked, str) else super().__getitem__(asked)


def test_labels_without_names_are_positions_of_the_logits():
    source = unitlab.images(TensorDataset(BATCH, torch.tensor(LABELS)))
    ds = ablated(source, 9)
    assert ds.category.values.tolist() == [f"class {k}" for k in range(9)] and ds.label.values.tolist() == LABELS
    assert ds.n_images.values.tolist() == [2, 1, 1, 0, 2, 0, 0, 0, 0]
    named = unitlab.images(TensorDataset(BATCH, torch.tensor(LABELS)), categories=list("abcde"))
    for refused in (named, source):
        with pytest.raises(UnitlabError, match="classes apart"):
            ablated(refused, 9 if refused is named else 4)


@pytest.mark.parametrize("kind", ["tensors", "arrays", "one-hot", "one-hot floats", "list of labels"])
def test_two_arrays_are_images_and_labels(kind):
    one_hot = np.eye(6, dtype=np.int64)[LABELS]
    labels = {"tensors": torch.tensor(LABELS), "arrays": np.array(LABELS), "one-hot": one_hot, "list of labels": LABELS}
    pair = (BATCH if kind == "tensors" else BATCH.numpy(), labels.get(kind, one_hot.astype(np.float32)))
    source = unitlab.images(pair)
    assert source.labels.tolist() == LABELS and torch.equal(source.at(range(6)), BATCH)
    assert len(source.categories) == (6 if "one-hot" in kind else 5)
    with pytest.raises(UnitlabError, match="5 labels are given for 6 images"):
        unitlab.images((pair[0], pair[1][:5]))
    if "one-hot" in kind:
        with pytest.raises(UnitlabError, match="one integer for each image"):
            unitlab.images((pair[0], pair[1] + pair[1]))


@pytest.mark.parametrize(("key", "label"), [("image", "label"), ("img", "fine_label")])
def test_items_as_hugging_face_has_them(key, label):
    source = unitlab.images(Items(key, label))
    assert source.labels.tolist() == LABELS and source.categories == list("abcde")
    expected = torch.stack([in_0_to_1(COLOURS + np.uint8(k)) for k in range(6)])
    assert torch.equal(source.at(range(6)), expected) and len(source.at([3])) == 1

    def processor(picture):
        return {"pixel_values": [np.moveaxis(np.asarray(picture, np.float32), 2, 0) / 127.5 - 1]}

    for given in (processor, lambda picture: {"pixel_values": torch.as_tensor(processor(picture)["pixel_values"][0])[None]}):
        found = unitlab.images(Items(key, label), transform=given).at(range(6))
        assert found.shape == (6, 3, 6, 8) and torch.allclose(found, 2 * expected - 1, atol=1e-6)
    with pytest.raises(UnitlabError, match="has none of"):
        unitlab.images(Items("photograph", label))


# what the four images that are read twice at once do not show


@pytest.mark.parametrize("ablation", ["zero", "mean"])
def test_a_transform_that_seldom_draws_is_found_when_images_are_read_again(noisy, ablation):
    calls = []

    def seldom_noisy(picture):
        calls.append(picture)
        pixels = in_0_to_1(np.array(picture))
        return pixels + 0.01 if len(calls) > 8 + 8 and len(calls) % 5 == 0 else pixels

    source = unitlab.images(noisy, transform=seldom_noisy)
    with pytest.raises(UnitlabError, match=r"image '[ab]/.*' differs when it is read again.*transform \(.*seldom_noisy"):
        unitlab.ablate(Classes(2).eval(), source, "conv", ablation=ablation, progress=False, device="cpu")


def test_a_network_of_one_channel_and_pictures_of_three(photos):
    network = Classes(2, channels=1).eval()
    with pytest.raises(UnitlabError, match=r"one channel.*transform=.*Grayscale"):
        unitlab.ablate(network, photos, "conv", progress=False, device="cpu")
    given = transforms.Compose([transforms.Grayscale(), transforms.ToTensor()])
    source = unitlab.images(photos, transform=given)
    assert unitlab.ablate(network, source, "conv", progress=False, device="cpu").sizes["unit"] == 4
