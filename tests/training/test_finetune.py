import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from minidl.data import DataLoader, ImageFolder
from minidl.errors import CheckpointError, DataError, WeightsError
from minidl.models import VGG
from minidl.training import finetune, load_model, predict, read_metadata, save_checkpoint
from minidl.training.features import TrunkLoader, cached_features
from minidl.training.finetune import load_pretrained
from minidl.training.interrupt import Interrupted


def run(drawn_folder, tiny_vgg, out, **options):
    return finetune(drawn_folder, tiny_vgg, out=out, **{"epochs": 3, "batch_size": 8, **options})


def weights(model):
    return {name: array.copy() for name, array in model.state_dict().items()}


def changed(model, tiny_vgg):
    """The layers whose weights are not those of the file any more."""
    before, after = weights(load_model(tiny_vgg)), weights(model)
    names = (name for name in after if not np.array_equal(before.get(name), after[name]))
    return sorted({name.partition(".")[0] for name in names})


def assert_same(one, other):
    assert list(one) == list(other)
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@pytest.mark.parametrize(
    ("train", "learns"),
    [
        ("last", ["fc5"]),
        ("dense", ["fc3", "fc4", "fc5"]),
        ("all", ["conv1_1", "conv2_1", "conv2_2", "fc3", "fc4", "fc5"]),
    ],
)
@pytest.mark.parametrize("augment", [False, True])
def test_what_learns(drawn_folder, tiny_vgg, home, tmp_path, train, learns, augment):
    result = run(drawn_folder, tiny_vgg, tmp_path / "run", train=train, augment=augment)
    assert changed(result.model, tiny_vgg) == learns
    assert result.model.fc5.weight.shape == (2, 12)
    assert result.model.classes == ["cats", "dogs"]
    assert len(result.history) == 3
    assert len(result.predictions) == 10
    assert os.path.basename(result.predictions.paths[0]).startswith("cats")


def test_pretrained_layers_learn_ten_times_more_slowly(drawn_folder, tiny_vgg, home, tmp_path):
    run(drawn_folder, tiny_vgg, tmp_path / "run", train="dense", lr=0.02)
    optimizer = read_metadata(tmp_path / "run" / "last.safetensors")["optimizer"]
    new, old = optimizer["param_groups"]
    assert (new["lr"], len(new["params"])) == (0.02, 2)
    assert (old["lr"], len(old["params"])) == (pytest.approx(0.002), 4)


def test_the_saved_model_predicts_the_same(drawn_folder, tiny_vgg, home, tmp_path):
    result = run(drawn_folder, tiny_vgg, tmp_path / "run")
    model = load_model(tmp_path / "run" / "model.safetensors")
    assert_same(weights(model), weights(result.model))
    assert model.preprocessing == load_model(tiny_vgg).preprocessing
    again = predict(
        model, DataLoader(ImageFolder(drawn_folder / "valid", model.preprocessing.transform()), 8)
    )
    np.testing.assert_allclose(again.probabilities, result.predictions.probabilities, rtol=1e-5)


def test_what_a_run_leaves(drawn_folder, tiny_vgg, home, tmp_path):
    run(drawn_folder, tiny_vgg, tmp_path / "run")
    files = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert files == ["history.csv", "history.json", "last.safetensors", "model.safetensors", "run.json"]


def test_features_are_computed_once(drawn_folder, tiny_vgg, home, tmp_path, monkeypatch):
    from minidl.training import features

    first = run(drawn_folder, tiny_vgg, tmp_path / "1")
    assert len(list((home / "features").iterdir())) == 2
    monkeypatch.setattr(features, "_compute", lambda *_: pytest.fail("the features are there"))
    monkeypatch.chdir(drawn_folder.parent)  # the path may be a relative one
    second = run(drawn_folder.name, tiny_vgg, tmp_path / "2")
    assert_same(weights(first.model), weights(second.model))


def test_features_are_the_trunks_features(drawn_folder, tiny_vgg, home):
    model = load_model(tiny_vgg)
    trunk = model.between(until="relu4")
    pictures = ImageFolder(drawn_folder / "train", model.preprocessing.transform())
    kept = cached_features(trunk, pictures, {}, "pictures")
    computed = list(TrunkLoader(trunk, DataLoader(pictures, 20)))
    np.testing.assert_array_equal(np.array(kept.x), computed[0][0].numpy())
    assert np.array(kept.y).tolist() == pictures.targets
    assert not computed[0][0].requires_grad


@pytest.mark.parametrize(
    ("stop", "kept", "batches"), [(3, 16, [1, 8, 8, 1, 4]), (4, 20, [1, 8, 8, 4, 1])], ids=["middle", "end"]
)
def test_interrupted_features_are_continued(drawn_folder, tiny_vgg, home, stop, kept, batches):
    model = load_model(tiny_vgg)
    trunk = model.between(until="relu4")
    pictures = ImageFolder(drawn_folder / "train", model.preprocessing.transform())
    whole = np.array(cached_features(trunk, pictures, {"run": 1}, "pictures").x)
    calls = []

    def count(module, inputs):
        calls.append(len(inputs[0]))
        if len(calls) == stop:
            signal.raise_signal(signal.SIGINT)

    with trunk[0].register_forward_pre_hook(count):
        with pytest.raises(Interrupted, match=f"after {kept} of 20 pictures; what they gave is kept"):
            cached_features(trunk, pictures, {"run": 2}, "pictures")
        np.testing.assert_array_equal(cached_features(trunk, pictures, {"run": 2}, "pictures").x, whole)
    assert calls == batches


@pytest.mark.parametrize("train", ["last", "dense", "all"])
def test_interrupted_and_resumed_is_uninterrupted_bit_for_bit(drawn_folder, tiny_vgg, home, tmp_path, train):
    options = {"train": train, "augment": train == "all"}
    plain = run(drawn_folder, tiny_vgg, tmp_path / "plain", **options)
    with pytest.raises(Interrupted, match="after epoch 1; everything is saved"):
        run(
            drawn_folder,
            tiny_vgg,
            tmp_path / "run",
            **options,
            on_epoch=lambda row: signal.raise_signal(signal.SIGINT),
        )
    resumed = run(drawn_folder, tiny_vgg, tmp_path / "run", resume=True, **options)
    assert_same(weights(plain.model), weights(resumed.model))
    assert plain.history["train_loss"] == resumed.history["train_loss"]


KILLED = """
import sys
from minidl.training import finetune
finetune(sys.argv[1], sys.argv[2], out=sys.argv[3], epochs=12, batch_size=4, train="dense")
"""


@pytest.mark.slow
@pytest.mark.parametrize("wait_for", ["run.json", "last.safetensors"])
def test_killed_and_resumed_is_uninterrupted_bit_for_bit(drawn_folder, tiny_vgg, home, tmp_path, wait_for):
    out = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-c", KILLED, drawn_folder, tiny_vgg, out])
    waited = time.monotonic() + 30
    while not (out / wait_for).exists() and time.monotonic() < waited:
        time.sleep(0.0005)
    time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    options = {"epochs": 12, "batch_size": 4, "train": "dense"}
    resumed = run(drawn_folder, tiny_vgg, out, resume=True, **options)
    plain = run(drawn_folder, tiny_vgg, tmp_path / "plain", **options)
    assert_same(weights(plain.model), weights(resumed.model))
    assert plain.history["valid_loss"] == resumed.history["valid_loss"]


def test_a_finished_run_can_go_on(drawn_folder, tiny_vgg, home, tmp_path):
    run(drawn_folder, tiny_vgg, tmp_path / "run", epochs=1)
    longer = run(drawn_folder, tiny_vgg, tmp_path / "run", epochs=3, resume=True)
    plain = run(drawn_folder, tiny_vgg, tmp_path / "plain")
    assert_same(weights(longer.model), weights(plain.model))
    again = run(drawn_folder, tiny_vgg, tmp_path / "run", resume=True)
    assert_same(weights(again.model), weights(plain.model))
    assert len(again.history) == 3


def test_a_run_is_not_overwritten(drawn_folder, tiny_vgg, home, tmp_path):
    run(drawn_folder, tiny_vgg, tmp_path / "run", epochs=1)
    with pytest.raises(CheckpointError, match="run holds a run already: resume it, or choose another folder"):
        run(drawn_folder, tiny_vgg, tmp_path / "run")


def test_a_run_is_not_resumed_with_other_options(drawn_folder, tiny_vgg, home, tmp_path):
    run(drawn_folder, tiny_vgg, tmp_path / "run", epochs=1)
    with pytest.raises(CheckpointError, match=r"started with lr = 0\.001, and is to be resumed with 0\.5"):
        run(drawn_folder, tiny_vgg, tmp_path / "run", resume=True, lr=0.5)


def test_a_run_is_not_resumed_with_other_weights(drawn_folder, tiny_vgg, home, tmp_path):
    copy = tmp_path / "copy"
    copy.write_bytes(tiny_vgg.read_bytes())
    run(drawn_folder, copy, tmp_path / "run", epochs=1)
    os.utime(copy, (0, 0))
    with pytest.raises(CheckpointError, match="cannot be resumed: the weights changed since it was started"):
        run(drawn_folder, copy, tmp_path / "run", epochs=1, resume=True)


def test_a_run_is_not_resumed_with_other_pictures(drawn_folder, tiny_vgg, home, tmp_path):
    folder = tmp_path / "drawn"
    shutil.copytree(drawn_folder, folder)
    run(folder, tiny_vgg, tmp_path / "run", epochs=1)
    one, other = sorted((folder / "valid" / "cats").iterdir())[:2]
    shutil.copy(one, other)  # as many as before
    with pytest.raises(CheckpointError, match="cannot be resumed: the pictures changed since it was started"):
        run(folder, tiny_vgg, tmp_path / "run", epochs=1, resume=True)


def test_a_run_that_failed_before_it_learned_is_started_anew(drawn_folder, tiny_vgg, home, tmp_path):
    folder = tmp_path / "drawn"
    shutil.copytree(drawn_folder, folder)
    bad = folder / "train" / "cats" / "bad.jpg"
    bad.write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"bad\.jpg"):
        run(folder, tiny_vgg, tmp_path / "run", epochs=1)
    bad.unlink()
    assert len(run(folder, tiny_vgg, tmp_path / "run", epochs=1).history) == 1


def test_a_model_without_notes_is_not_overwritten(drawn_folder, tiny_vgg, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"somebody's")
    with pytest.raises(CheckpointError, match="holds a run already"):
        run(drawn_folder, tiny_vgg, tmp_path)
    with pytest.raises(CheckpointError, match=r"holds no run: run\.json"):
        run(drawn_folder, tiny_vgg, tmp_path, resume=True)


@pytest.mark.parametrize("train", ["last", "dense", "all"])
def test_weights_without_the_dense_layers(drawn_folder, tiny_vgg, home, tmp_path, train):
    whole = load_model(tiny_vgg)
    model = VGG(**{**whole.config, "num_classes": None})
    model.load_state_dict(whole.state_dict(), strict=False)
    model.preprocessing = whole.preprocessing
    save_checkpoint(tmp_path / "notop", model)
    result = run(drawn_folder, tmp_path / "notop", tmp_path / "run", train=train)
    assert changed(result.model, tmp_path / "notop") == (
        ["conv1_1", "conv2_1", "conv2_2", "fc3"] if train == "all" else ["fc3"]
    )
    assert result.model.fc3.weight.shape == (2, 8 * 4 * 4)
    assert_same(weights(load_model(tmp_path / "run" / "model.safetensors")), weights(result.model))


def test_wrong_arguments(drawn_folder, tiny_vgg, tmp_path):
    with pytest.raises(DataError, match="train must be one of last, dense, all, got 'first'"):
        run(drawn_folder, tiny_vgg, tmp_path / "run", train="first")
    with pytest.raises(DataError, match="no optimizer called 'magic': expected one of sgd, adam"):
        run(drawn_folder, tiny_vgg, tmp_path / "run", optimizer="magic")
    with pytest.raises(WeightsError, match="nothing"):
        run(drawn_folder, tmp_path / "nothing", tmp_path / "run")
    with pytest.raises(DataError, match="epochs must be at least 1, got 0"):
        run(drawn_folder, tiny_vgg, tmp_path / "run", epochs=0)
    with pytest.raises(DataError, match="batch_size must be at least 1, got 0"):
        run(drawn_folder, tiny_vgg, tmp_path / "other", batch_size=0, train="all")
    assert not (tmp_path / "run").exists()


def test_pretrained_is_ours_or_somebodys(tiny_vgg, tmp_path):
    assert load_pretrained(tiny_vgg).config["num_classes"] == 5
    save_checkpoint(tmp_path / "plain", VGG(**load_model(tiny_vgg).config))
    with pytest.raises(WeightsError, match="plain does not say what its model expects of a picture"):
        load_pretrained(tmp_path / "plain")
    (tmp_path / "other").write_bytes(b"whatever")
    with pytest.raises(WeightsError, match="not a weight file"):
        load_pretrained(tmp_path / "other")
