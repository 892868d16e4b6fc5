"""What tests share: the same random numbers in every run; drawn pictures, a tiny VGG in VGG16's place."""

import os
from pathlib import Path

import pytest

import minidl


def pytest_configure():
    """hypothesis draws the same examples every time, and a slow machine is no failure."""
    try:
        from hypothesis import settings
    except ImportError:
        return
    settings.register_profile("minidl", deadline=None, derandomize=True, print_blob=True)
    settings.load_profile("minidl")


@pytest.fixture(autouse=True)
def _seed():
    """Weights and dropout masks do not depend on the tests before."""
    minidl.seed(0)


@pytest.fixture(autouse=True)
def _gpu(request):
    """Where there is no GPU, a test that needs one says why."""
    if request.node.get_closest_marker("gpu") and (reason := minidl.backend.gpu_unavailable()):
        pytest.skip(reason)


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    """What CuPy is to the kernels, on this processor."""
    from compiled_kernels import CompiledNumPy

    return CompiledNumPy(tmp_path_factory.mktemp("kernels"))


@pytest.fixture(scope="session")
def drawn_folder(tmp_path_factory):
    """train/{cats,dogs} with 20 pictures and valid/{cats,dogs} with 10, 16 × 16 pixels."""
    pytest.importorskip("PIL")
    from minidl.data import draw_cats_and_dogs, save_pictures

    folder = tmp_path_factory.mktemp("drawn")
    for part, count, seed in (("train", 20, 0), ("valid", 10, 1)):
        save_pictures(folder / part, *draw_cats_and_dogs(count, size=16, seed=seed), ["cats", "dogs"])
    return folder


@pytest.fixture(scope="session")
def dogscats():
    """The folder of real pictures, train/{cats,dogs} and valid/{cats,dogs}."""
    if "MINIDL_DOGSCATS" not in os.environ:
        pytest.skip("MINIDL_DOGSCATS names no folder of real pictures")
    return Path(os.environ["MINIDL_DOGSCATS"])


@pytest.fixture(scope="session")
def tiny_vgg(tmp_path_factory):
    """The checkpoint of a VGG for 16 × 16 pixels: two blocks, two hidden dense layers, five classes."""
    pytest.importorskip("safetensors")
    from minidl.data import Preprocessing
    from minidl.models import VGG
    from minidl.training import save_checkpoint

    minidl.seed(0)
    model = VGG(blocks=[[4], [8, 8]], dense=[16, 12], num_classes=5, pooled=4)
    model.preprocessing = Preprocessing(size=16, scale=1 / 255, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_checkpoint(path, model)
    return path


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A MINIDL_HOME of the test's own, where features are kept."""
    path = tmp_path / "home"
    monkeypatch.setenv("MINIDL_HOME", str(path))
    return path
