import inspect
import signal

import numpy as np
import pytest

from minidl.errors import CheckpointError, DataError
from minidl.training import finetune, load_model, read_options, train_from_scratch
from minidl.training.interrupt import Interrupted

pytest.importorskip("safetensors")


def run(drawn_folder, out, **options):
    return train_from_scratch(drawn_folder, out=out, **{"size": 16, "epochs": 3, "batch_size": 8, **options})


def assert_same(one, other):
    assert list(one) == list(other)
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_what_a_run_leaves(drawn_folder, tmp_path):
    result = run(drawn_folder, tmp_path / "run")
    assert len(result.history) == 3
    assert len(result.predictions) == 10
    model = load_model(tmp_path / "run" / "model.safetensors")
    assert_same(model.state_dict(), result.model.state_dict())
    assert model.classes == ["cats", "dogs"]
    assert model.preprocessing.size == 16
    rates = result.history["lr"]  # 1cycle: up first, at the end next to nothing
    assert rates[0] > rates[1] > rates[2]
    assert rates[2] < 1e-4


def test_interrupted_and_resumed_is_uninterrupted_bit_for_bit(drawn_folder, tmp_path):
    plain = run(drawn_folder, tmp_path / "plain", epochs=2)
    with pytest.raises(Interrupted, match="after epoch 1; everything is saved"):
        run(drawn_folder, tmp_path / "run", epochs=2, on_epoch=lambda row: signal.raise_signal(signal.SIGINT))
    resumed = run(drawn_folder, tmp_path / "run", epochs=2, resume=True)
    assert_same(plain.model.state_dict(), resumed.model.state_dict())
    for column in ("train_loss", "train_accuracy", "valid_loss", "valid_accuracy", "lr"):
        assert plain.history[column] == resumed.history[column]


def test_a_cycle_cannot_become_longer(drawn_folder, tmp_path):
    run(drawn_folder, tmp_path / "run", epochs=1)
    with pytest.raises(CheckpointError, match="started with epochs = 1, and is to be resumed with 2"):
        run(drawn_folder, tmp_path / "run", epochs=2, resume=True)


def test_wrong_arguments(drawn_folder, tmp_path):
    with pytest.raises(DataError, match="size must be at least 16 pixels, got 15"):
        run(drawn_folder, tmp_path / "run", size=15)
    with pytest.raises(DataError, match="no optimizer called 'magic'"):
        run(drawn_folder, tmp_path / "run", optimizer="magic")
    with pytest.raises(DataError, match="epochs must be at least 1, got 0"):
        run(drawn_folder, tmp_path / "run", epochs=0)
    assert not (tmp_path / "run").exists()


def test_every_argument_on_which_the_result_depends_is_noted(drawn_folder, tiny_vgg, home, tmp_path):
    """An argument that is missing in the notes would be forgotten when the run is resumed."""
    run(drawn_folder, tmp_path / "train", epochs=1)
    finetune(drawn_folder, tiny_vgg, epochs=1, out=tmp_path / "finetune")
    for function, command in ((train_from_scratch, "train"), (finetune, "finetune")):
        arguments = set(inspect.signature(function).parameters) - {"out", "resume", "on_epoch"}
        assert set(read_options(tmp_path / command, command)) == arguments
