import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import minidl
from minidl.data import DataLoader, TensorDataset
from minidl.errors import CheckpointError, GradientError
from minidl.nn import BatchNorm1d, Dropout, Linear, ReLU, Sequential
from minidl.optim import SGD, Adam, OneCycleLR
from minidl.training.checkpoint import read_metadata, save_checkpoint
from minidl.training.fit import BEST, LAST, evaluate, fit
from minidl.training.history import History
from minidl.training.interrupt import Interrupted

pytest.importorskip("safetensors")

EPOCHS, BATCHES = 4, 5


class Setup:
    """A net with dropout and running statistics, an optimizer with moments, a schedule: all have a state."""

    def __init__(self, seed=0):
        minidl.seed(seed)
        self.model = Sequential(
            first=Linear(6, 16), bn=BatchNorm1d(16), relu=ReLU(), dropout=Dropout(0.3), last=Linear(16, 2)
        )
        self.optimizer = Adam(self.model.parameters(), lr=0.01)
        rng = np.random.default_rng(1)
        x = rng.normal(size=(50, 6)).astype(np.float32)
        data = TensorDataset(x, (x[:, 0] > x[:, 1]).astype(np.int64))
        self.train_loader = DataLoader(data, 10, shuffle=True, generator=7)
        self.valid_loader = DataLoader(data, 20)
        self.schedule = OneCycleLR(self.optimizer, 0.05, total_steps=EPOCHS * BATCHES)

    def fit(self, folder=None, epochs=EPOCHS, **options):
        return fit(
            self.model,
            self.train_loader,
            self.valid_loader,
            optimizer=self.optimizer,
            schedule=self.schedule,
            epochs=epochs,
            folder=folder,
            **options,
        )

    def state(self):
        return {name: array.copy() for name, array in self.model.state_dict().items()}


class StopAfter:
    """A loader that presses Ctrl-C before the batch of this number, counted over all epochs."""

    def __init__(self, loader, batch):
        self.loader, self.batch, self.seen = loader, batch, 0
        self.seed, self.set_epoch = loader.seed, loader.set_epoch

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        for item in self.loader:
            self.seen += 1
            if self.seen == self.batch:
                signal.raise_signal(signal.SIGINT)
            yield item


def assert_same(one, other):
    assert list(one) == list(other)
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def without_seconds(history):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in history]


@pytest.fixture(scope="module")
def uninterrupted():
    setup = Setup()
    return setup.fit(), setup.state()


def test_it_learns(uninterrupted):
    history, _ = uninterrupted
    assert history["epoch"] == [1, 2, 3, 4]
    assert history["train_loss"][-1] < history["train_loss"][0]
    assert history["valid_accuracy"][-1] > 0.7
    assert all(seconds > 0 for seconds in history["seconds"])


def test_the_history_is_what_evaluation_says():
    setup = Setup()
    history = setup.fit()
    loss, accuracy = evaluate(setup.model, setup.valid_loader)
    assert (history["valid_loss"][-1], history["valid_accuracy"][-1]) == (loss, accuracy)


@pytest.mark.parametrize("batch", [1, 2, 5, 7, 19])
def test_interrupted_and_resumed_is_uninterrupted_bit_for_bit(tmp_path, uninterrupted, batch):
    history, state = uninterrupted
    first = Setup()
    first.train_loader = StopAfter(first.train_loader, batch)
    with pytest.raises(Interrupted, match=f"after batch {(batch - 1) % BATCHES + 1}; everything is saved in"):
        first.fit(tmp_path)
    second = Setup(seed=99)  # what the checkpoint does not bring back would differ
    resumed = second.fit(tmp_path, resume=True)
    assert_same(second.state(), state)
    assert without_seconds(resumed) == without_seconds(history)


def test_epochs_can_be_added(tmp_path, uninterrupted):
    history, state = uninterrupted
    Setup().fit(tmp_path, epochs=2)
    second = Setup(seed=99)
    assert without_seconds(second.fit(tmp_path, resume=True)) == without_seconds(history)
    assert_same(second.state(), state)


KILLED = """
import sys
sys.path.insert(0, sys.argv[1])
from test_fit import Setup
Setup().fit(sys.argv[2], save_every=0.0)
"""


@pytest.mark.parametrize("delay", [0.0, 0.01, 0.03])
def test_killed_and_resumed_is_uninterrupted_bit_for_bit(tmp_path, uninterrupted, delay):
    run = subprocess.Popen([sys.executable, "-c", KILLED, os.path.dirname(__file__), tmp_path])
    waited = time.monotonic() + 30
    while not (tmp_path / LAST).exists() and time.monotonic() < waited:
        time.sleep(0.0005)
    time.sleep(delay)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert (tmp_path / LAST).exists()
    resumed = Setup(seed=99)
    history = resumed.fit(tmp_path, resume=True)
    assert_same(resumed.state(), uninterrupted[1])
    assert without_seconds(history) == without_seconds(uninterrupted[0])
    assert sorted(path.name for path in tmp_path.iterdir()) == [BEST, "history.csv", "history.json", LAST]


def test_without_a_checkpoint_to_resume_from_it_starts(tmp_path, uninterrupted):
    history, _ = uninterrupted
    assert without_seconds(Setup().fit(tmp_path, resume=True)) == without_seconds(history)


def test_the_best_epoch_is_kept(tmp_path):
    from safetensors.numpy import load_file

    setup, states = Setup(), []
    history = setup.fit(tmp_path, on_epoch=lambda row: states.append(setup.state()))
    best = states[history.best()["epoch"] - 1]
    kept = load_file(tmp_path / BEST)
    assert_same({name: kept[f"model/{name}"] for name in best}, best)
    assert History.load(tmp_path).rows == history.rows


def test_other_batches_are_refused_before_anything_changes(tmp_path):
    Setup().fit(tmp_path, epochs=1)
    other = Setup(seed=3)
    other.train_loader.batch_size = 25
    before = other.state()
    with pytest.raises(CheckpointError, match="trained on 5 batches with seed 7, these are 2 with seed 7"):
        other.fit(tmp_path, resume=True)
    assert_same(before, other.state())


def test_a_loss_that_explodes_names_the_step_and_the_cause():
    setup = Setup()
    optimizer = SGD(setup.model.parameters(), lr=1e30)
    with (
        np.errstate(all="ignore"),
        pytest.raises(
            GradientError, match=r"the loss is (nan|inf) in epoch 1 at batch \d: the learning rate of 1e\+30"
        ),
    ):
        fit(setup.model, setup.train_loader, optimizer=optimizer, epochs=9)


def test_a_loss_that_explodes_in_the_last_step_is_found_in_validation(tmp_path):
    setup = Setup()
    optimizer = SGD(setup.model.parameters(), lr=1e38)
    one_batch = DataLoader(setup.train_loader.dataset, 50)
    with (
        np.errstate(all="ignore"),
        pytest.raises(GradientError, match=r"the loss is (nan|inf) in validation after epoch 1: the"),
    ):
        fit(setup.model, one_batch, setup.valid_loader, optimizer=optimizer, epochs=1, folder=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", [{"totals": {"lost": 1}}, {"epoch": None, "random": {}}, {"history": 1}])
def test_damaged_notes_are_refused(tmp_path, damage):
    setup = Setup()
    setup.fit(tmp_path, epochs=1)
    training = read_metadata(tmp_path / LAST)["training"] | damage
    save_checkpoint(tmp_path / LAST, setup.model, setup.optimizer, training)
    with pytest.raises(CheckpointError, match=r"last\.safetensors: its notes on the run are damaged"):
        Setup().fit(tmp_path, resume=True)


def test_frozen_parts_stay_in_eval_mode():
    setup = Setup()
    setup.model.first.freeze()
    setup.model.bn.freeze()
    before = setup.state()
    setup.fit(epochs=1)
    after = setup.state()
    assert_same(
        {n: a for n, a in before.items() if n[:2] in ("fi", "bn")},
        {n: after[n] for n in after if n[:2] in ("fi", "bn")},
    )
    assert not np.array_equal(before["last.weight"], after["last.weight"])


def test_without_validation():
    setup = Setup()
    setup.valid_loader = None
    assert setup.fit(epochs=2)["valid_loss"] == [None, None]


def test_the_library_does_not_print(tmp_path, capfd):
    Setup().fit(tmp_path, epochs=1)
    assert capfd.readouterr() == ("", "")
