"""A folder of pictures as a data set: root/class/picture.jpg, or Kaggle's flat cat.0.jpg, dog.0.jpg, …"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from minidl.data.pictures import EXTENSIONS, open_picture
from minidl.data.transforms import RandomTransform, ToArray
from minidl.errors import DataError
from minidl.progress import progress_bar

if TYPE_CHECKING:
    from PIL.Image import Image

UNLABELLED = "unknown"
# More bad pictures than both of these is no accident but a broken download.
MAX_BAD, MAX_BAD_FRACTION = 5, 0.01


class ImageFolder:
    """The pictures below `root` with their classes; each is decoded when it is asked for.

    Three layouts are understood:
        root/class/…/picture.jpg   a folder per class (a test set is one class, "unknown")
        root/class.number.jpg      the class is in the name, as in Kaggle's train.zip
        root/number.jpg            no class at all, as in Kaggle's test.zip: all are "unknown"

    Other files (Thumbs.db, notes) and hidden ones are left alone. A symbolic link that leads out of `root` is
    refused.

    Args:
        root: the folder.
        transform: from a Pillow RGB picture to an array (3, H, W); a RandomTransform is also given a
            generator. Without one, item i is the plain float32 array of pixels, 0 to 255.
        on_error: "raise" refuses a picture that cannot be read when it is met. "skip" decodes every picture
            once now and leaves the bad ones out: so the length, the batches and the order stay what they
            are for the whole training. Bad pictures beyond 1 % and more than five are refused all the same.
        sample: take a random subset of so many pictures, equally many of each class.
        seed: of the sample.

    Attributes:
        classes: names of the classes, sorted; the label is the place in this list.
        class_to_idx: name → label.
        samples: (path, label) of each picture, sorted by class and path.
        skipped: (path, reason) of each picture left out.

    Raises:
        DataError: no such folder, no pictures in it, or in one of its classes; a link that leads outside;
            too many bad pictures.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        transform: Callable | None = None,
        on_error: str = "raise",
        sample: int | None = None,
        seed: int = 0,
    ):
        if on_error not in ("raise", "skip"):
            raise DataError(f"on_error must be raise or skip, got {on_error!r}")
        self.root = Path(root)
        self.transform: Callable = ToArray() if transform is None else transform
        paths = _find_pictures(self.root)
        self.classes = sorted(paths)
        self.class_to_idx = {name: label for label, name in enumerate(self.classes)}
        self.samples = [(path, self.class_to_idx[name]) for name in self.classes for path in paths[name]]
        self.skipped: list[tuple[str, str]] = []
        if sample is not None:
            self.samples = [self.samples[i] for i in self._balanced(sample, np.random.default_rng(seed))]
        if on_error == "skip":
            self._drop_unreadable()

    @property
    def targets(self) -> list[int]:
        """The label of each picture."""
        return [label for _, label in self.samples]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """(array, label) of one picture; augmentation draws anew each time."""
        return self.item(index, np.random.default_rng())

    def item(self, index: int, generator: np.random.Generator) -> tuple[Any, int]:
        """(array, label) of one picture, augmented as `generator` decides.

        Raises:
            DataError: the file cannot be read; it is named.
        """
        path, label = self.samples[index]
        picture = open_picture(path)
        random = isinstance(self.transform, RandomTransform)
        return (self.transform(picture, generator) if random else self.transform(picture)), label

    def picture(self, index: int) -> Image:
        """The picture itself, as it is in the file: for galleries."""
        return open_picture(self.samples[index][0])

    def split(self, valid: float = 0.2, seed: int = 0) -> tuple[ImageFolder, ImageFolder]:
        """(train, valid): the fraction `valid` of each class, chosen at random, goes to the second.

        Raises:
            DataError: `valid` is not between 0 and 1, or a class has only one picture.
        """
        if not 0 < valid < 1:
            raise DataError(f"the fraction for validation must be between 0 and 1, got {valid:g}")
        rng = np.random.default_rng(seed)
        chosen: list[int] = []
        for label, members in enumerate(self._members()):
            if len(members) < 2:
                raise DataError(f"{self.root}: {self.classes[label]} has one picture, too few to split")
            count = min(max(round(valid * len(members)), 1), len(members) - 1)
            chosen.extend(rng.permutation(members)[:count].tolist())
        rest = sorted(set(range(len(self))) - set(chosen))
        return self.subset(rest), self.subset(sorted(chosen))

    def subset(self, indices: Sequence[int]) -> ImageFolder:
        """The same data set with only these pictures."""
        part = copy.copy(self)
        part.samples = [self.samples[i] for i in indices]
        return part

    def check_classes(self) -> None:
        """Refuse a folder that a classifier cannot be trained on.

        Raises:
            DataError: there is only one class.
        """
        if len(self.classes) < 2:
            raise DataError(
                f"{self.root} has one class only ({self.classes[0]}): a classifier needs two, "
                "each in a folder of its own"
            )

    def _members(self) -> list[np.ndarray]:
        """The indices of the pictures of each class."""
        targets = np.array(self.targets)
        return [np.flatnonzero(targets == label) for label in range(len(self.classes))]

    def _balanced(self, count: int, rng: np.random.Generator) -> list[int]:
        """`count` indices at random, as evenly over the classes as the folder allows."""
        if count < len(self.classes):
            raise DataError(f"a sample of {count} pictures is smaller than the {len(self.classes)} classes")
        members = [rng.permutation(indices) for indices in self._members()]
        # All first ones, all second ones, …: cut anywhere, the classes are level.
        order = sorted((place, label) for label, own in enumerate(members) for place in range(len(own)))
        return sorted(int(members[label][place]) for place, label in order[:count])

    def _drop_unreadable(self) -> None:
        good = []
        for sample, reason in zip(self.samples, self._check_all(), strict=True):
            if reason is None:
                good.append(sample)
            else:
                self.skipped.append((sample[0], reason))
        if len(self.skipped) > max(MAX_BAD, MAX_BAD_FRACTION * len(self.samples)):
            raise DataError(
                f"{self.root}: {len(self.skipped)} of {len(self.samples)} pictures cannot be read, too many "
                f"to skip; the first is {self.skipped[0][1]}"
            )
        self.samples = good
        for label, members in enumerate(self._members()):
            if not len(members):
                raise DataError(f"{self.root}: no picture of {self.classes[label]} can be read")

    def _check_all(self) -> Iterator[str | None]:
        """For each picture, in order, why it cannot be read, or None."""
        paths = [path for path, _ in self.samples]
        with (
            progress_bar(len(paths), "checking the pictures", "picture") as bar,
            ThreadPoolExecutor() as pool,
        ):
            for problem in pool.map(_problem, paths):
                bar.update(1)
                yield problem

    def __repr__(self) -> str:
        return f"ImageFolder({str(self.root)!r}, {len(self)} pictures of {', '.join(self.classes)})"


def find_splits(
    root: str | os.PathLike,
    valid: float = 0.2,
    seed: int = 0,
    transform: Callable | None = None,
    valid_transform: Callable | None = None,
    on_error: str = "raise",
    sample: int | None = None,
) -> tuple[ImageFolder, ImageFolder]:
    """(train, valid) from root/train and root/valid (or val, validation) where they exist, else a split.

    Args:
        root, on_error, seed: see ImageFolder.
        valid: the fraction of each class to validate on.
        transform: for the training pictures.
        valid_transform: for the validation pictures (None: the same one).
        sample: so many pictures in all, the fraction `valid` of them for validation.

    Raises:
        DataError: see ImageFolder; one class only; the classes of train and valid differ; valid/ alone.
    """
    root = Path(root)
    train_root = root / "train" if (root / "train").is_dir() else root
    valid_root = next((root / n for n in ("valid", "val", "validation") if (root / n).is_dir()), None)
    if train_root is root and valid_root is not None:
        raise DataError(f"{root} has {valid_root.name}/, but no train/ beside it")
    if valid_root is None:
        whole = ImageFolder(train_root, transform, on_error, sample, seed)
        whole.check_classes()
        train, held_out = whole.split(valid, seed)
    else:
        train_share, valid_share = None, None
        if sample is not None:
            valid_share = round(valid * sample)
            train_share = sample - valid_share
        train = ImageFolder(train_root, transform, on_error, train_share, seed)
        train.check_classes()
        held_out = ImageFolder(valid_root, transform, on_error, valid_share, seed)
        if train.classes != held_out.classes:
            raise DataError(
                f"{train_root} has the classes {', '.join(train.classes)}, "
                f"but {valid_root} has {', '.join(held_out.classes)}"
            )
    if valid_transform is not None:
        held_out.transform = valid_transform
    return train, held_out


def _problem(path: str) -> str | None:
    try:
        open_picture(path)
    except DataError as error:
        return str(error)
    return None


def _find_pictures(root: Path) -> dict[str, list[str]]:
    """Class name → sorted paths."""
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    folders = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and entry.name[0] != ".")
    by_class = {name: list(_walk(root / name, root)) for name in folders}
    if any(by_class.values()):
        for name, paths in by_class.items():
            if not paths:
                raise DataError(f"{root / name}: no pictures in this folder")
        return by_class
    flat = list(_pictures_in(root, root))
    if not flat:
        raise DataError(f"{root}: no pictures in this folder (looked for {', '.join(EXTENSIONS)})")
    return _by_name(flat)


def _by_name(paths: list[str]) -> dict[str, list[str]]:
    """The flat layout: class.number.extension, or no class in any name."""
    by_class: dict[str, list[str]] = {}
    without = []
    for path in paths:
        if match := re.fullmatch(r"(.+)\.\d+\.\w+", os.path.basename(path)):
            by_class.setdefault(match[1], []).append(path)
        else:
            without.append(path)
    if not by_class:
        return {UNLABELLED: paths}
    if without:
        raise DataError(f"{without[0]}: no class in the name, while others are like {min(by_class)}.0.jpg")
    return by_class


def _walk(folder: Path, root: Path) -> Iterator[str]:
    _check_inside(folder, root)
    for current, folders, _ in os.walk(folder):
        folders[:] = sorted(name for name in folders if name[0] != ".")
        yield from _pictures_in(Path(current), root)


def _pictures_in(folder: Path, root: Path) -> Iterator[str]:
    for name in sorted(os.listdir(folder)):
        path = folder / name
        if name[0] != "." and name.lower().endswith(EXTENSIONS) and path.is_file():
            _check_inside(path, root)
            yield str(path)


def _check_inside(path: Path, root: Path) -> None:
    if path.is_symlink() and not path.resolve().is_relative_to(root.resolve()):
        raise DataError(f"{path}: this link leads out of {root}; put the picture itself there")


__all__ = ["ImageFolder", "find_splits"]
