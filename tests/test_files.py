import os

import pytest

from minidl.files import replacing, write_text


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "model"
    path.write_text("old")

    def fail():
        with replacing(path) as file:
            file.write(b"half of the ne")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["model"]


def test_the_old_file_is_whole_until_the_new_one_is(tmp_path):
    path = tmp_path / "model"
    path.write_text("old")
    with replacing(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["model"]


def test_what_a_killed_process_left_is_reused(tmp_path):
    path = tmp_path / "model"
    (tmp_path / ".model.tmp").write_text("orphan, longer than the new file")
    write_text(path, "naïve")
    assert path.read_bytes() == "naïve".encode()
    assert os.listdir(tmp_path) == ["model"]


def test_a_missing_folder_is_an_error_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_text(tmp_path / "nowhere" / "model", "")


def test_what_is_no_regular_file_is_not_replaced(tmp_path):
    """As `--out /dev/stdout` would be: the rename takes the place of a device as of any file."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="not a regular file"):
        write_text(pipe, "text")
    assert pipe.is_fifo()
