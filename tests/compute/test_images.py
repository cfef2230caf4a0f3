"""Image sources: order, ids, labels, pixels, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset
from torchvision import datasets, transforms
from torchvision.transforms import v2

import unitlab
from unitlab import UnitlabError
from unitlab.compute.images.transforms import transform_text

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 6, 7, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Two classes with three and two pictures."""
    root = tmp_path / "photos"
    for position, name in enumerate(["cat/a", "cat/b", "cat/deep/c", "dog/a", "dog/b"]):
        path = root / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(PIXELS[position]).save(path)
    return root


class Tensors(Dataset):
    """(image, label) from memory."""

    def __init__(self, labels=(0, 1, 2, 0), pixels=None):
        self.labels = list(labels)
        self.pixels = torch.rand(len(self.labels), 3, 4, 4, generator=torch.manual_seed(0)) if pixels is None else pixels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, position):
        return self.pixels[position], self.labels[position]


def pixels(source, batch_size=2) -> Tensor:
    return torch.cat([batch for batch, _ in source.batches(0, len(source), batch_size)])


def thumbnail(source, position):
    return next(source.stream([[position]], thumbnails=True)).thumbnails[0]


def test_folder_gives_paths_as_ids_and_pixels_in_0_to_1(folder):
    source = unitlab.images(folder)
    assert source.ids == ["cat/a.png", "cat/b.png", "cat/deep/c.png", "dog/a.png", "dog/b.png"]
    assert source.categories == ["cat", "dog"]
    assert source.labels.dtype == np.int64 and source.labels.tolist() == [0, 0, 0, 1, 1]
    assert torch.equal(pixels(source), torch.from_numpy(PIXELS).permute(0, 3, 1, 2) / 255)
    assert np.array_equal(thumbnail(source, 3), PIXELS[3])
    assert source.clusters is None


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 100])
def test_batches_hold_any_stretch_in_order(folder, batch_size):
    source = unitlab.images(folder)
    batches = list(source.batches(1, 4, batch_size))
    assert np.concatenate([positions for _, positions in batches]).tolist() == [1, 2, 3]
    assert torch.equal(torch.cat([batch for batch, _ in batches]), pixels(source)[1:4])
    assert max(len(batch) for batch, _ in batches) <= batch_size


def test_batches_may_be_left_unfinished(folder):
    source = unitlab.images(folder)
    first = next(iter(source.batches(0, 5, 2)))[0]
    assert torch.equal(first, pixels(source)[:2])


def test_a_class_without_images_is_allowed(folder):
    source = unitlab.images(folder, categories=["bird", "cat", "dog"])
    assert source.labels.tolist() == [1, 1, 1, 2, 2] and source.categories[0] == "bird"
    (folder / "empty").mkdir()
    assert unitlab.images(folder).categories == ["cat", "dog", "empty"]


def test_thumbnails_are_made_before_the_transform_and_small(tmp_path):
    (tmp_path / "one").mkdir()
    Image.new("RGB", (200, 100), (255, 0, 0)).save(tmp_path / "one" / "a.png")
    normalise = transforms.Compose([transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.1] * 3)])
    found = thumbnail(unitlab.images(tmp_path, transform=normalise), 0)
    assert found.shape == (32, 64, 3) and (found == [255, 0, 0]).all()


def test_folder_and_torchvision_dataset_agree(folder):
    mine, theirs = unitlab.images(folder), unitlab.images(datasets.ImageFolder(folder, transforms.ToTensor()))
    assert theirs.ids == mine.ids and theirs.categories == mine.categories
    assert np.array_equal(theirs.labels, mine.labels)
    assert torch.equal(pixels(theirs), pixels(mine))
    assert np.array_equal(thumbnail(theirs, 4), PIXELS[4])


def test_subset_keeps_classes_and_files(folder):
    source = unitlab.images(Subset(datasets.ImageFolder(folder, transforms.ToTensor()), [4, 0]))
    assert source.ids == ["dog/b.png", "cat/a.png"] and source.labels.tolist() == [1, 0]
    assert np.array_equal(thumbnail(source, 0), PIXELS[4])
    assert torch.equal(pixels(source)[0], torch.from_numpy(PIXELS[4]).permute(2, 0, 1) / 255)


def test_dataset_and_its_loader_are_the_same():
    data = Tensors()
    for source in (unitlab.images(data), unitlab.images(DataLoader(data, batch_size=3))):
        assert source.ids == ["0", "1", "2", "3"] and source.labels.tolist() == data.labels
        assert torch.equal(pixels(source), data.pixels)
        assert len(source.categories) == 3


def test_own_ids_and_categories():
    source = unitlab.images(Tensors(), ids=list("abcd"), categories=["x", "y", "z", "never"])
    assert source.ids == list("abcd") and source.categories[3] == "never"


def test_bundled_sets():
    fashion, emoji = unitlab.images("fashion_mnist"), unitlab.images("emoji")
    assert len(fashion) == 10_000 and np.bincount(fashion.labels).tolist() == [1000] * 10
    batch, _ = next(iter(fashion.batches(0, 1000, 1000)))
    assert batch.shape == (1000, 1, 28, 28) and abs(float(batch.mean())) < 0.05 and abs(float(batch.std()) - 1) < 0.05
    assert emoji.clusters is not None and len(emoji.clusters) == len(emoji)
    assert next(iter(emoji.batches(5, 6, 1)))[0].shape == (1, 3, 64, 64)
    # images of one cluster are of one artist: their ids begin with sets of one family
    family = {"fluent": "microsoft", "noto": "google"}
    for cluster in np.unique(emoji.clusters)[:200]:
        members = {emoji.ids[i].partition("/")[2].split("-")[0] for i in np.flatnonzero(emoji.clusters == cluster)}
        assert len({family.get(member, member) for member in members}) == 1


def test_transform_text_is_repeatable():
    def crop(image):
        return image

    chain = transforms.Compose([transforms.Lambda(crop), transforms.ToTensor(), crop])
    one = unitlab.images(Tensors(), transform=transforms.Compose([crop])).transform_text
    assert " at 0x" not in one and "crop" in one
    assert "ToTensor" in transform_text(chain)


# what is refused


@pytest.mark.parametrize("read_as", ["folder", "dataset"])
def test_unreadable_image_is_named(folder, read_as):
    (folder / "dog" / "b.png").write_bytes((folder / "dog" / "b.png").read_bytes()[:60])
    source = unitlab.images(folder if read_as == "folder" else datasets.ImageFolder(folder, transforms.ToTensor()))
    with pytest.raises(UnitlabError, match=r"dog/b\.png|item 4"):
        pixels(source)


@pytest.mark.parametrize(
    "random",
    [
        transforms.Compose([transforms.Resize(4), transforms.Compose([transforms.RandomCrop(4)])]),
        transforms.RandomHorizontalFlip(),
        v2.Compose([v2.ColorJitter(0.5)]),
        torch.nn.Sequential(transforms.RandomErasing()),
    ],
)
def test_random_transforms_are_refused(folder, random):
    with pytest.raises(UnitlabError, match="changes from call to call"):
        unitlab.images(folder, transform=random)
    with pytest.raises(UnitlabError, match="changes from call to call"):
        unitlab.images(datasets.ImageFolder(folder, random))


def test_hidden_augmentation_is_refused(folder):
    def noisy(image):
        return torch.rand(3, 4, 4)

    for source, transform in ((folder, noisy), (datasets.ImageFolder(folder, noisy), None), (Tensors(), noisy)):
        with pytest.raises(UnitlabError, match="differs when it is read again"):
            unitlab.images(source, transform=transform)


def test_random_order_is_refused():
    data = Tensors()
    for loader in (
        DataLoader(data, shuffle=True),
        DataLoader(data, sampler=torch.utils.data.WeightedRandomSampler([1.0] * 4, 4)),
        DataLoader(data, batch_sampler=[[3, 1], [0, 2]]),
    ):
        with pytest.raises(UnitlabError, match="repeated"):
            unitlab.images(loader)


@pytest.mark.parametrize("label", [3, -1])
def test_labels_outside_the_classes_are_refused(label):
    with pytest.raises(UnitlabError, match=f"label {label}"):
        unitlab.images(Tensors((0, 1, label)), categories=["a", "b", "c"])


@pytest.mark.parametrize("label", [0.5, "cat", [0, 1], None])
def test_labels_that_are_no_integers_are_refused(label):
    with pytest.raises(UnitlabError, match="integer"):
        unitlab.images(Tensors((label, label)))


def test_no_images(tmp_path):
    (tmp_path / "cat").mkdir()
    for empty in (tmp_path, Tensors(())):
        with pytest.raises(UnitlabError, match="no images"):
            unitlab.images(empty)


def test_sizes_that_differ(folder):
    Image.new("RGB", (9, 9)).save(folder / "dog" / "c.png")
    with pytest.raises(UnitlabError, match=r"dog/c\.png.*transform"):
        pixels(unitlab.images(folder))
    both = transforms.Compose([transforms.Resize((4, 4)), transforms.ToTensor()])
    assert pixels(unitlab.images(folder, transform=both)).shape == (6, 3, 4, 4)


def test_pixels_that_are_not_finite():
    values = torch.zeros(6, 3, 4, 4)
    values[5, 0, 0, 0] = torch.nan
    with pytest.raises(UnitlabError, match=r"'5'.*NaN"):
        pixels(unitlab.images(Tensors([0] * 6, values)))


def test_images_that_are_no_float_tensors(folder):
    with pytest.raises(UnitlabError, match="float tensors"):
        unitlab.images(folder, transform=transforms.PILToTensor())


def test_ids():
    with pytest.raises(UnitlabError, match="twice"):
        unitlab.images(Tensors(), ids=list("abca"))
    with pytest.raises(UnitlabError, match="3 ids are given for 4 images"):
        unitlab.images(Tensors(), ids=list("abc"))


def test_unknown_sources(tmp_path, folder):
    with pytest.raises(UnitlabError, match="'emoji'"):
        unitlab.images("emojis")
    with pytest.raises(UnitlabError, match="not a folder"):
        unitlab.images(tmp_path / "nowhere")
    with pytest.raises(UnitlabError, match="int"):
        unitlab.images(3)
    with pytest.raises(UnitlabError, match="'dog' that is no category"):
        unitlab.images(folder, categories=["cat", "dogs"])
    with pytest.raises(UnitlabError, match="leave them out"):
        unitlab.images("emoji", ids=["a"])


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 64, 40), (3, 128, 96)])
def test_thumbnails_of_tensors_are_means_stretched_each_to_its_own_range(shape):
    size = torch.tensor([1.0, 9.0, 0.0, 3.0, 1e-3]).view(5, 1, 1, 1)
    batch = torch.randn(5, *shape, generator=torch.Generator().manual_seed(0)) * size
    source = unitlab.images(TensorDataset(batch, torch.zeros(5, dtype=torch.long)))
    made = next(source.stream([range(5)], thumbnails=True)).thumbnails
    step = -(-shape[1] // 64)
    for tensor, one in zip(batch.double().numpy(), made, strict=True):
        blocks = tensor.reshape(shape[0], shape[1] // step, step, shape[2] // step, step)
        expected = blocks.mean((2, 4)).transpose(1, 2, 0)
        low, high = expected.min(), expected.max()
        expected = np.broadcast_to((expected - low) / max(high - low, 1e-12) * 255, one.shape)
        assert np.abs(one - expected).max() <= 0.5 + 1e-3


def test_tensors_of_two_channels_have_no_thumbnails():
    source = unitlab.images(TensorDataset(torch.rand(3, 2, 8, 8), torch.zeros(3, dtype=torch.long)))
    assert next(source.stream([range(3)], thumbnails=True)).thumbnails == [None] * 3
