import json
import os
import resource
import subprocess
import sys

import numpy as np
import pytest

from minidl import Tensor
from minidl.errors import CheckpointError, MissingExtraError, WeightsError
from minidl.nn import BatchNorm1d, Linear, ReLU, Sequential
from minidl.optim import SGD, Adam, RMSprop
from minidl.training.checkpoint import (
    is_checkpoint,
    load_checkpoint,
    load_model,
    read_metadata,
    save_checkpoint,
)

pytest.importorskip("safetensors")


def network(width=5):
    return Sequential(hidden=Linear(4, width), bn=BatchNorm1d(width), relu=ReLU(), last=Linear(width, 2))


def trained(optimizer_class, steps=3, **options):
    model = network()
    optimizer = optimizer_class(model.parameters(), **options)
    rng = np.random.default_rng(0)
    for _ in range(steps):
        optimizer.zero_grad()
        (model(Tensor(rng.normal(size=(6, 4)).astype(np.float32))) ** 2).mean().backward()
        optimizer.step()
    return model, optimizer


def assert_same(one, other):
    assert list(one) == list(other)
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])
        assert one[name].dtype == other[name].dtype


@pytest.mark.parametrize(
    ("kind", "options"), [(Adam, {"lr": 0.1}), (SGD, {"lr": 0.1, "momentum": 0.9}), (RMSprop, {})]
)
def test_everything_comes_back(tmp_path, kind, options):
    model, optimizer = trained(kind, **options)
    save_checkpoint(tmp_path / "c", model, optimizer, {"epoch": 3, "loss": 1 / 3})
    other = network()
    again = kind(other.parameters(), lr=9.0)
    load_checkpoint(tmp_path / "c", other, again)
    assert_same(model.state_dict(), other.state_dict())
    assert read_metadata(tmp_path / "c")["training"] == {"epoch": 3, "loss": 1 / 3}
    one, two = optimizer.state_dict(), again.state_dict()
    assert json.loads(json.dumps(one["param_groups"])) == json.loads(json.dumps(two["param_groups"]))
    for number, state in one["state"].items():
        assert list(state) == list(two["state"][number]) or set(state) == set(two["state"][number])
        for name, value in state.items():
            np.testing.assert_array_equal(value, two["state"][number][name])


def test_other_programs_can_read_it(tmp_path):
    from safetensors.numpy import load_file

    model, optimizer = trained(Adam)
    save_checkpoint(tmp_path / "c", model, optimizer)
    arrays = load_file(tmp_path / "c")
    assert_same(
        {name: arrays[f"model/{name}"] for name in model.state_dict()},
        model.state_dict(),
    )
    assert is_checkpoint(tmp_path / "c")


def test_another_shape_is_refused_and_nothing_changed(tmp_path):
    model, optimizer = trained(Adam)
    save_checkpoint(tmp_path / "c", model, optimizer)
    other = network(width=6)
    before = {name: array.copy() for name, array in other.state_dict().items()}
    with pytest.raises(
        CheckpointError, match=r"of another model: hidden\.weight is \(5, 4\), expected \(6, 4\); .* more"
    ):
        load_checkpoint(tmp_path / "c", other)
    assert_same(before, other.state_dict())


def test_other_names_are_refused(tmp_path):
    save_checkpoint(tmp_path / "c", Sequential(first=Linear(2, 2)))
    with pytest.raises(
        CheckpointError, match=r"last\.weight is missing; last\.bias is missing; first\.\w+ is not"
    ):
        load_checkpoint(tmp_path / "c", Sequential(last=Linear(2, 2)))


def test_another_optimizer_is_refused_and_nothing_changed(tmp_path):
    model, optimizer = trained(SGD, momentum=0.9)
    save_checkpoint(tmp_path / "c", model, optimizer)
    other = network()
    before = {name: array.copy() for name, array in other.state_dict().items()}
    with pytest.raises(WeightsError, match=r"6 parameters|\[6\]"):
        load_checkpoint(tmp_path / "c", other, SGD(other.hidden.parameters()))
    assert_same(before, other.state_dict())


def test_a_run_is_not_resumed_from_a_model_alone(tmp_path):
    model = network()
    save_checkpoint(tmp_path / "c", model)
    with pytest.raises(CheckpointError, match="holds a model only"):
        load_checkpoint(tmp_path / "c", model, SGD(model.parameters()))


def test_a_part_of_a_model_is_not_a_model(tmp_path):
    save_checkpoint(tmp_path / "c", network())
    with pytest.raises(CheckpointError, match=r"only the layers that were trained: use model\.safetensors"):
        load_model(tmp_path / "c")


def with_metadata(path, metadata):
    from safetensors.numpy import save_file

    save_file({"model/x": np.zeros(3, np.float32)}, path, metadata)
    return path


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (None, "is a safetensors file, but no checkpoint of minidl"),
        ({"minidl": "{"}, "description is damaged"),
        ({"minidl": "[" * 100_000}, "description is damaged"),
        ({"minidl": "[]"}, "description is damaged"),
        ({"minidl": '{"format": "1"}'}, "description is damaged"),
    ],
)
def test_a_damaged_description(tmp_path, metadata, message):
    with pytest.raises(WeightsError, match=message):
        read_metadata(with_metadata(tmp_path / "c", metadata))


def test_a_small_file_that_claims_a_huge_model_takes_no_memory(tmp_path, tiny_vgg):
    def claim(config):
        description = {"format": 1, "architecture": "VGG", "config": load_model(tiny_vgg).config | config}
        path = with_metadata(tmp_path / "c", {"minidl": json.dumps(description)})
        with pytest.raises(CheckpointError, match=r"makes no sense \([\d,]+ units in a file of \d+ bytes\)"):
            load_model(path)

    claim({"blocks": [[30_000_000], [1]] * 40})
    claim({"blocks": [[30_000_000], [1], [-30_000_001]]})
    claim({"num_classes": 10**12})


def test_a_newer_format_says_so(tmp_path):
    with pytest.raises(
        CheckpointError, match="has format 2, and this minidl reads up to 1: pip install --upgrade"
    ):
        read_metadata(with_metadata(tmp_path / "c", {"minidl": '{"format": 2}'}))


@pytest.mark.parametrize("damage", [b"", b"not a checkpoint", b"\xff" * 100])
def test_what_is_no_safetensors_file(tmp_path, damage):
    (tmp_path / "c").write_bytes(damage)
    with pytest.raises(WeightsError, match="damaged, or not a safetensors file"):
        load_model(tmp_path / "c")
    assert not is_checkpoint(tmp_path / "c")


def test_a_truncated_file(tmp_path):
    save_checkpoint(tmp_path / "c", network())
    os.truncate(tmp_path / "c", os.path.getsize(tmp_path / "c") - 1)
    with pytest.raises(WeightsError, match="damaged"):
        load_checkpoint(tmp_path / "c", network())


def test_a_missing_file(tmp_path):
    with pytest.raises(WeightsError, match="nowhere: No such file or directory"):
        load_model(tmp_path / "nowhere")


def test_a_missing_extra(tmp_path, monkeypatch):
    save_checkpoint(tmp_path / "c", network())
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(MissingExtraError, match=r"needs safetensors: pip install 'minidl\[weights\]'"):
        load_checkpoint(tmp_path / "c", network())


FULL_DISK = """
import resource, sys
from minidl.nn import Linear
from minidl.training.checkpoint import save_checkpoint
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
save_checkpoint(sys.argv[1], Linear(100, 100))
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="needs POSIX limits")
def test_a_full_disk_leaves_the_checkpoint_before(tmp_path):
    path = tmp_path / "c"
    save_checkpoint(path, network())
    before = path.read_bytes()
    run = subprocess.run([sys.executable, "-c", FULL_DISK, path], capture_output=True, text=True)
    assert "CheckpointError: could not save" in run.stderr
    assert "File too large. What was there before still is" in run.stderr
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["c"]
