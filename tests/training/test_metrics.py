import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidl.errors import ShapeError
from minidl.training.metrics import Predictions, accuracy, confusion_matrix, log_loss


def two_classes(dog, targets, paths=()):
    dog = np.array(dog, np.float32)
    return Predictions(np.stack([1 - dog, dog], axis=1), np.array(targets), paths)


PREDICTIONS = two_classes([0.9, 0.2, 0.6, 0.45, 0.01, 0.99], [1, 0, 0, 1, 1, 1])


def test_accuracy_and_its_standard_error():
    assert PREDICTIONS.accuracy == 3 / 6
    assert PREDICTIONS.standard_error == math.sqrt(0.5 * 0.5 / 6)
    assert accuracy(np.array([[3.0, -1], [0, 1]]), np.array([0, 0])) == 0.5


def test_the_rows_of_the_confusion_matrix_are_the_truth():
    assert PREDICTIONS.confusion_matrix().tolist() == [[1, 1], [2, 2]]
    three = confusion_matrix(np.array([0, 2]), np.array([0, 1]), 3)
    assert three.tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0]]


def test_log_loss_by_hand():
    p = np.array([[0.5, 0.5], [0.25, 0.75]], np.float32)
    assert log_loss(p, np.array([0, 0])) == pytest.approx((math.log(2) + math.log(4)) / 2)


def test_a_sure_mistake_costs_what_the_clip_allows():
    p = np.array([[1.0, 0.0]], np.float32)
    assert log_loss(p, np.array([1]), clip=0.02) == pytest.approx(-math.log(0.02))


@given(st.integers(1, 49), st.floats(0.001, 0.49))
def test_the_best_clip_is_the_error_rate(errors, other):
    p = np.tile(np.array([[1.0, 0.0]]), (100, 1))
    targets = np.array([1] * errors + [0] * (100 - errors))
    assert log_loss(p, targets, clip=errors / 100) <= log_loss(p, targets, clip=other) + 1e-12


def test_the_surest_predictions():
    assert PREDICTIONS.most_confident(right=True, k=2).tolist() == [5, 0]
    assert PREDICTIONS.most_confident(right=True, cls=0).tolist() == [1]
    assert PREDICTIONS.most_confident(right=False, cls=0).tolist() == [4, 3]
    assert PREDICTIONS.most_confident(right=False, cls=1).tolist() == [2]


def test_the_least_sure_predictions():
    assert PREDICTIONS.most_uncertain(2).tolist() == [3, 2]


def test_three_classes_are_uncertain_by_the_two_largest():
    p = np.array([[0.4, 0.39, 0.21], [0.36, 0.33, 0.31], [0.45, 0.1, 0.45]], np.float32)
    assert Predictions(p, np.zeros(3, int)).most_uncertain(3).tolist() == [2, 0, 1]


def test_lengths_must_agree():
    with pytest.raises(ShapeError, match=r"got \(2, 2\), 3 and 0"):
        Predictions(np.ones((2, 2), np.float32), np.zeros(3, int))
