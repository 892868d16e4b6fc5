import io
import sys

import pytest

from minidl.progress import progress_bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


def run():
    with progress_bar(10, "counting", initial=4) as bar:
        bar.set_postfix_str("halfway")
        bar.update(6)


def test_a_terminal_sees_a_bar(monkeypatch):
    pytest.importorskip("tqdm")
    monkeypatch.setattr(sys, "stderr", Terminal())
    run()
    assert "counting" in sys.stderr.getvalue()
    assert "4/10" in sys.stderr.getvalue()


def test_a_pipe_stays_silent(capsys):
    run()
    assert capsys.readouterr().err == ""


def test_without_tqdm_there_is_no_bar(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setattr(sys, "stderr", Terminal())
    run()
    assert sys.stderr.getvalue() == ""
