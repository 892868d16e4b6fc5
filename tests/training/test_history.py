import csv

import pytest

from minidl.errors import DataError
from minidl.training.history import COLUMNS, History


def row(epoch, accuracy, loss=0.5):
    return {"epoch": epoch, "train_loss": 1 / 3, "valid_accuracy": accuracy, "valid_loss": loss}


def test_json_gives_back_exactly_what_was_kept(tmp_path):
    history = History([row(1, 0.1), row(2, 0.7)])
    history.save(tmp_path)
    assert History.load(tmp_path).rows == history.rows
    assert sorted(path.name for path in tmp_path.iterdir()) == ["history.csv", "history.json"]


def test_csv_has_a_header_and_a_line_for_each_epoch(tmp_path):
    history = History()
    history.append(**row(1, None))
    history.save(tmp_path)
    with open(tmp_path / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert rows[0]["epoch"] == "1"
    assert rows[0]["valid_accuracy"] == ""
    assert float(rows[0]["train_loss"]) == 1 / 3


def test_columns():
    history = History([row(1, 0.5), row(2, 0.75)])
    assert history["valid_accuracy"] == [0.5, 0.75]
    assert history["lr"] == [None, None]


def test_the_best_epoch_breaks_ties_by_loss_and_then_by_time():
    assert History([row(1, 0.9, 0.4), row(2, 0.8, 0.1)]).best()["epoch"] == 1
    assert History([row(1, 0.9, 0.4), row(2, 0.9, 0.1), row(3, 0.9, 0.1)]).best()["epoch"] == 2
    assert History([row(1, None), row(2, None)]).best()["epoch"] == 2
    assert History().best() is None


def test_an_unknown_column_is_named():
    with pytest.raises(DataError, match="no column accuracy; it has epoch, train_loss"):
        History().append(epoch=1, accuracy=0.5)
