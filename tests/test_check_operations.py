"""`minidl gradcheck`: the table from the command line, and the reader's own operation in a file of hers."""

from __future__ import annotations

import pytest

from minidl.cli import main

FILE = """
import numpy as np
import minidl as dl


class Cube(dl.Function):
    def forward(self, x):
        self.save(x=x)
        return x**3

    def backward(self, dy):
        (x,) = self.saved
        return dy * 2.0 * x**2


class Product(dl.Function):
    def forward(self, x, w):
        self.save(x=x, w=w)
        return x * w

    def backward(self, dy):
        x, w = self.saved
        return dy * w, dy * x


class Log(dl.Function):
    def forward(self, x):
        self.save(x=x)
        return np.log(x)

    def backward(self, dy):
        (x,) = self.saved
        return dy / x


class Power(dl.Function):
    def __init__(self, a):
        self.a = a


class Broken(dl.Function):
    def forward(self, x):
        return x.missing


def product(x, w, scale=2.0):
    return (x @ w) * scale


layer = dl.nn.Linear(4, 2)
Layer = dl.nn.Tanh
"""


@pytest.fixture
def check(tmp_path, monkeypatch, capsys):
    """Runs `minidl gradcheck` beside the file and returns (status, stdout, the last line of stderr)."""
    (tmp_path / "own.py").write_text(FILE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        try:
            status = main(["gradcheck", *arguments])
        except SystemExit as exit:  # argparse
            status = exit.code
        out, err = capsys.readouterr()
        return status, out, err.strip().rpartition("\n")[2]

    return call


def test_operations_by_name(check):
    status, out, err = check("tanh", "less", "astype", "max_pool2d")
    heads, *rows = [line.split() for line in out.splitlines()]
    assert (status, err) == (0, "")
    assert heads == ["operation", "cases", "1st", "error", "2nd", "error", "time"]
    assert [row[0] for row in rows] == ["tanh", "less", "astype", "max_pool2d"]
    assert [row[-1] for row in rows] == ["right", "gradient", "differences", "right"]
    for row in (rows[0], rows[3]):
        assert int(row[1]) > 1
        assert 0 < float(row[2]) < 1e-6
        assert 0 < float(row[3]) < 1e-6


@pytest.mark.slow
def test_every_operation_is_right(check):
    """The largest error over the table is below 10⁻⁶, of both derivatives."""
    status, out, err = check("--all", "--markdown")
    heads, rule, *rows = out.splitlines()
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert (status, err) == (0, "")
    assert heads == "| operation | cases | 1st error | 2nd error | time |  |"
    assert rule == "|---|---:|---:|---:|---:|---|"
    checked = [row for row in cells if row[-1] == "right"]
    assert len(checked) > 50
    assert max(float(error) for row in checked for error in row[2:4]) <= 1e-6
    assert len(cells) - len(checked) == sum(row[1] == "–" for row in cells)


def test_a_wrong_operation_in_the_table(check, monkeypatch):
    from minidl.functional.activation import Tanh

    monkeypatch.setattr(Tanh, "backward", lambda self, dy: dy * 2.0)
    status, out, _ = check("tanh")
    assert status == 1
    assert out.splitlines()[-1].endswith("WRONG")


def test_a_wrong_operation_of_her_own(check):
    status, out, err = check("own.py:Cube")
    assert (status, err) == (1, "")
    assert out.startswith("own.py:Cube: gradcheck FAILED: ")
    assert "likely cause: it is 2/3 times the right one: is there a factor 2 where 3 belongs?" in out


@pytest.mark.parametrize(
    "arguments",
    [
        "own.py:Product",
        "own.py:Product --shape 3x4 --shape 4",
        "own.py:Product --shape 5",
        "own.py:Log --positive --shape 2x2",
        "own.py:product --shape 3x4 --shape 4x2 --order 1",
        "own.py:layer",
        "own.py:Layer",
        "own.py:Layer own.py:layer tanh",
    ],
)
def test_right_ones_of_her_own(check, arguments):
    status, out, err = check(*arguments.split())
    assert (status, err) == (0, "")
    assert "gradcheck passed: largest relative error " in out


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ("tanhh", 1, "no operation called 'tanhh': did you mean tanh?"),
        ("conv", 1, "no operation called 'conv': did you mean conv2d?"),
        ("zzz", 1, "no operation called 'zzz': --all lists those that there are"),
        ("none.py:Cube", 1, "none.py: no such file"),
        (
            "own.py:Cube --shape 0",
            1,
            "there is nothing to compare in arrays without elements: give another --shape",
        ),
        (
            "own.py:Nope",
            1,
            "own.py has no Function, function or Module called 'Nope': "
            "it has Cube, Product, Log, Power, Broken, product",
        ),
        (
            "own.py",
            1,
            "say what to check in it, as own.py:NAME: it has Cube, Product, Log, Power, Broken, product",
        ),
        (
            "own.py:Power",
            1,
            "Power cannot be made without arguments (missing a required argument: 'a'): "
            "check a function that makes it",
        ),
        (
            "own.py:Broken",
            1,
            "own.py, line 43, in forward: AttributeError: 'numpy.ndarray' object has no attribute 'missing' "
            "(with inputs of shape 3×4, which --shape changes)",
        ),
        (
            "own.py:product",
            1,
            "own.py, line 47, in product: ShapeError: "
            "matmul of (3, 4) and (3, 4): the last axis of the left (4) must match the second to last axis "
            "of the right (3) "
            "(with inputs of shape 3×4 and 3×4, which --shape changes)",
        ),
        ("own.py:Cube --shape 3 --shape 4", 1, "Cube takes 1 array, and 2 shapes were given"),
        (
            "own.py:Product --shape 3 --shape 4 --shape 5",
            1,
            "Product takes 2 arrays, and 3 shapes were given",
        ),
        ("own.py:Cube --shape 3y", 2, "argument --shape: expected a shape such as 3x4, got '3y'"),
        ("", 2, "say either --all or what to check: operations, or path/to/file.py:NAME"),
        *[
            (words, 2, "--shape, --positive and --order are for file.py:NAME: operations have samples")
            for words in (
                "tanh --shape 3x4",
                "--all --positive",
                "tanh --order 2",
                "own.py:Cube tanh --order 1",
            )
        ],
        ("tanh --all", 2, "say either --all or what to check: operations, or path/to/file.py:NAME"),
    ],
)
def test_mistakes_are_named(check, arguments, status, message):
    found, out, err = check(*arguments.split())
    assert (found, out) == (status, "")
    assert err == f"minidl{' gradcheck: error' if status == 2 else ''}: {message}"


def test_a_file_that_cannot_be_imported(check, tmp_path):
    (tmp_path / "syntax.py").write_text("def f(:\n")
    (tmp_path / "needs.py").write_text("import minidl\nimport nothing_of_that_name\n")
    assert check("syntax.py:f")[2].endswith("line 1: SyntaxError: invalid syntax (while it was imported)")
    assert check("needs.py:f") == (
        1,
        "",
        "minidl: needs.py, line 2, in <module>: ModuleNotFoundError: No module named 'nothing_of_that_name' "
        "(while it was imported)",
    )


def test_where_it_is_not_finite(check):
    status, out, _ = check("own.py:Log")
    assert status == 1
    assert "f is nan at output [0, 1]: check it where it is finite" in out
