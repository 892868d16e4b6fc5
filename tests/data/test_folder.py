"""ImageFolder: layouts, samples, splits, bad pictures, and what each mistake is told."""

from __future__ import annotations

import os

import numpy as np
import pytest
from PIL import Image

from minidl.data import Compose, ImageFolder, Preprocessing, RandomHorizontalFlip, ToArray, find_splits
from minidl.errors import DataError


def put(path, colour=0, size=(6, 5)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (colour, 0, 0)).save(path)


@pytest.fixture
def root(tmp_path):
    """Ten cats with red 0 … 9, twenty dogs with red 100 … 119, and things that are no pictures."""
    for i in range(10):
        put(tmp_path / "pets" / "cats" / f"{i}.png", i)
    for i in range(20):
        put(tmp_path / "pets" / "dogs" / "more" / f"{i}.PNG", 100 + i)
    for name in ("cats/Thumbs.db", "cats/.hidden.png", "notes.txt", ".git/x.png"):
        (tmp_path / "pets" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "pets" / name).write_bytes(b"\0")
    return tmp_path / "pets"


def test_a_folder_per_class(root):
    folder = ImageFolder(root)
    assert folder.classes == ["cats", "dogs"]
    assert folder.class_to_idx == {"cats": 0, "dogs": 1}
    assert len(folder) == 30
    assert folder.targets == [0] * 10 + [1] * 20
    assert [path for path, _ in folder.samples] == sorted(path for path, _ in folder.samples)
    array, label = folder[3]
    assert (array.dtype, array.shape, label) == (np.float32, (3, 5, 6), 0)
    assert array[0].max() == array[0].min() == 3
    assert folder.picture(3).size == (6, 5)
    assert "30 pictures of cats, dogs" in repr(folder)


def test_kaggle_layout(tmp_path):
    for name in ("cat.0.jpg", "cat.10.jpg", "dog.7.jpg"):
        put(tmp_path / name)
    (tmp_path / "empty folder").mkdir()
    folder = ImageFolder(tmp_path)
    assert folder.classes == ["cat", "dog"]
    assert folder.targets == [0, 0, 1]
    put(tmp_path / "me.jpg")
    with pytest.raises(DataError, match=r"me\.jpg: no class in the name, while others are like cat\.0\.jpg"):
        ImageFolder(tmp_path)


def test_unlabelled_pictures(tmp_path):
    put(tmp_path / "flat" / "1.jpg")
    put(tmp_path / "test" / "unknown" / "1.jpg")
    for name in ("flat", "test"):
        folder = ImageFolder(tmp_path / name)
        assert (folder.classes, folder.targets) == (["unknown"], [0])
        with pytest.raises(DataError, match=r"has one class only \(unknown\): a classifier needs two"):
            folder.check_classes()


def test_transform_is_given_the_generator(root):
    folder = ImageFolder(root, Compose([RandomHorizontalFlip(), ToArray()]))
    put(root / "cats" / "0.png")
    half = Image.new("RGB", (4, 1))
    half.paste((255, 0, 0), (0, 0, 2, 1))
    half.save(root / "cats" / "0.png")
    seen = {folder.item(0, np.random.default_rng(seed))[0][0, 0, 0] for seed in range(20)}
    assert seen == {0, 255}


def test_sample_is_balanced_and_random(root):
    folder = ImageFolder(root, sample=7)
    assert folder.targets == [0, 0, 0, 0, 1, 1, 1]
    assert folder.samples == ImageFolder(root, sample=7).samples
    assert folder.samples != ImageFolder(root, sample=7, seed=1).samples
    assert ImageFolder(root, sample=25).targets == [0] * 10 + [1] * 15
    assert len(ImageFolder(root, sample=99)) == 30
    with pytest.raises(DataError, match="a sample of 1 pictures is smaller than the 2 classes"):
        ImageFolder(root, sample=1)


def test_split_is_stratified_and_disjoint(root):
    folder = ImageFolder(root)
    train, valid = folder.split(0.2, seed=3)
    assert valid.targets == [0] * 2 + [1] * 4
    assert sorted(train.samples + valid.samples) == sorted(folder.samples)
    assert valid.samples == folder.split(0.2, seed=3)[1].samples
    assert valid.samples != folder.split(0.2, seed=4)[1].samples
    with pytest.raises(DataError, match=r"the fraction for validation must be between 0 and 1, got 1\.5"):
        folder.split(1.5)
    with pytest.raises(DataError, match="cats has one picture, too few to split"):
        folder.subset([0, 10, 11]).split()


def test_find_splits_of_one_folder(root):
    plain, other = Preprocessing(size=8).transform(), Preprocessing(size=4).transform()
    train, valid = find_splits(root, 0.2, transform=plain, valid_transform=other)
    assert (len(train), len(valid)) == (24, 6)
    assert train[0][0].shape == (3, 8, 8)
    assert valid[0][0].shape == (3, 4, 4)


def test_find_splits_uses_train_and_valid(tmp_path):
    for name, count in (("train", 8), ("valid", 3)):
        for kind in ("cats", "dogs"):
            for i in range(count):
                put(tmp_path / name / kind / f"{i}.png")
    train, valid = find_splits(tmp_path)
    assert (len(train), len(valid)) == (16, 6)
    train, valid = find_splits(tmp_path, sample=10)
    assert (train.targets, valid.targets) == ([0] * 4 + [1] * 4, [0, 1])
    (tmp_path / "valid" / "cats").rename(tmp_path / "valid" / "birds")
    with pytest.raises(DataError, match=r"train has the classes cats, dogs, but .*valid has birds, dogs"):
        find_splits(tmp_path)
    (tmp_path / "valid").rename(tmp_path / "elsewhere")
    assert [len(part) for part in find_splits(tmp_path, 0.25)] == [12, 4]
    (tmp_path / "train").rename(tmp_path / "valid")
    with pytest.raises(DataError, match="has valid/, but no train/ beside it"):
        find_splits(tmp_path)


def test_one_class_cannot_be_trained_on(root):
    (root / "dogs").rename(root.parent / "dogs")
    with pytest.raises(
        DataError, match=r"has one class only \(cats\): a classifier needs two, each in a folder"
    ):
        find_splits(root)


def test_no_folder_and_empty_folders(root, tmp_path):
    with pytest.raises(DataError, match="nowhere: no such folder"):
        ImageFolder(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: no pictures in this folder \(looked for .jpg, .jpeg, .png"):
        ImageFolder(tmp_path / "empty")
    (root / "birds").mkdir()
    with pytest.raises(DataError, match="birds: no pictures in this folder"):
        ImageFolder(root)
    with pytest.raises(DataError, match="on_error must be raise or skip, got 'ignore'"):
        ImageFolder(root, on_error="ignore")


@pytest.mark.skipif(os.name != "posix", reason="symbolic links need rights on Windows")
def test_links_may_not_lead_outside(root, tmp_path):
    (root / "cats" / "inside.png").symlink_to(root / "cats" / "0.png")
    assert len(ImageFolder(root)) == 31
    put(tmp_path / "secret.png")
    link = root / "cats" / "out.png"
    link.symlink_to(tmp_path / "secret.png")
    with pytest.raises(
        DataError, match=r"out\.png: this link leads out of .*pets; put the picture itself there"
    ):
        ImageFolder(root)
    link.unlink()
    put(tmp_path / "birds" / "0.png")
    (root / "birds").symlink_to(tmp_path / "birds")
    with pytest.raises(DataError, match="birds: this link leads out of"):
        ImageFolder(root)


def test_a_bad_picture_is_named(root):
    (root / "cats" / "4.png").write_bytes(b"no")
    folder = ImageFolder(root)
    with pytest.raises(DataError, match=r"cats.4\.png: not a picture"):
        folder[4]


def test_bad_pictures_are_skipped_and_counted(root):
    for name in ("cats/4.png", "dogs/more/7.PNG"):
        (root / name).write_bytes(b"")
    folder = ImageFolder(root, on_error="skip")
    assert len(folder) == 28
    assert [os.path.basename(path) for path, _ in folder.skipped] == ["4.png", "7.PNG"]
    assert folder.skipped[0][1].endswith("4.png: the file is empty")
    assert [int(folder[i][0][0, 0, 0]) for i in range(9)] == [0, 1, 2, 3, 5, 6, 7, 8, 9]


def test_too_many_bad_pictures_are_refused(root):
    for i in range(6):
        (root / "cats" / f"{i}.png").write_bytes(b"")
    with pytest.raises(
        DataError, match=r"6 of 30 pictures cannot be read, too many to skip; the first is .*0\.png"
    ):
        ImageFolder(root, on_error="skip")


def test_a_class_without_a_good_picture_is_refused(root):
    put(root / "birds" / "0.png")
    (root / "birds" / "0.png").write_bytes(b"")
    with pytest.raises(DataError, match="no picture of birds can be read"):
        ImageFolder(root, on_error="skip")


def test_real_cats_and_dogs(dogscats):
    train, valid = find_splits(dogscats, transform=Preprocessing().transform(), on_error="skip", sample=50)
    assert train.classes == ["cats", "dogs"]
    assert (len(train), len(valid)) == (40, 10)
    assert not train.skipped
    array, label = train[0]
    assert array.shape == (3, 224, 224)
    assert 0 <= array.min() < 60 < 180 < array.max() <= 255
    assert label == 0
