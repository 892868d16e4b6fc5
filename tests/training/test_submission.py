import numpy as np
import pytest

from minidl.errors import DataError
from minidl.training.submission import best_clip, picture_id, write_submission


def test_the_lines_are_sorted_by_number_and_clipped(tmp_path):
    path = tmp_path / "submission.csv"
    write_submission(path, [10, 2, 1], np.array([0.5, 1.0, 0.0], np.float32), clip=0.02)
    assert path.read_text() == "id,label\n1,0.02\n2,0.98\n10,0.5\n"


def test_a_small_bound_is_not_rounded_to_certainty(tmp_path):
    path = tmp_path / "submission.csv"
    write_submission(path, [1, 2], np.array([0.0, 1.0], np.float32), clip=1e-6)
    assert path.read_text() == "id,label\n1,1e-06\n2,0.999999\n"


def test_the_best_clip_is_the_error_rate():
    assert best_clip(0.98, 1000) == pytest.approx(0.02)
    assert best_clip(1.0, 500) == 0.001
    assert best_clip(0.3, 10) == 0.5


def test_the_number_is_the_name():
    assert picture_id("test/unknown/0017.jpg") == 17
    with pytest.raises(DataError, match=r"cat\.1\.jpg: the pictures of a submission have numbers for names"):
        picture_id("test/cat.1.jpg")


def test_a_number_stands_for_one_picture(tmp_path):
    with pytest.raises(DataError, match="two pictures have the number 3"):
        write_submission(tmp_path / "s.csv", [3, 4, 3], [0.1, 0.2, 0.3], clip=0.02)
    assert not list(tmp_path.iterdir())
