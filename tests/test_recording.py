"""What an operation notes of the moment it is called in."""

from __future__ import annotations

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
from pieces import leaf

import minidl as dl
from minidl import functional as F
from minidl import nn


def test_the_line_of_user_code_that_called_an_operation():
    x = leaf(1, 2)
    a, b = x * 2.0, x.exp()
    places = [tensor.grad_fn.made_at for tensor in (a, b)]
    assert [place.source for place in places] == ["a, b = x * 2.0, x.exp()"] * 2
    assert places[0].file == __file__
    assert str(places[0]) == f"test_recording.py:{places[0].line}"


def test_the_line_is_found_through_modules_and_composed_operations():
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    y = net(leaf(1, 2).reshape(1, 2))
    assert y.grad_fn.made_at.source == "y = net(leaf(1, 2).reshape(1, 2))"
    loss = F.mse_loss(y, y.detach() + 1.0)
    assert loss.grad_fn.made_at.source == "loss = F.mse_loss(y, y.detach() + 1.0)"


def test_code_without_a_file_has_a_line_and_no_text():
    names = {"x": leaf(1)}
    exec("y = 1\ny = x * 2.0", names)
    place = names["y"].grad_fn.made_at
    assert (place.file, place.line, place.source, str(place)) == ("<string>", 2, "", "<string>:2")


def test_the_variables_of_the_caller_are_not_kept_alive():
    class Large:
        pass

    def compute():
        large = Large()
        return leaf(1) * 2.0, weakref.ref(large)

    gc.disable()
    try:
        y, large = compute()
    finally:
        gc.enable()
    assert y.grad_fn is not None
    assert large() is None


# Is the graph recorded?


def test_no_grad_records_nothing():
    x = leaf(1)
    with dl.no_grad():
        y = x * 2.0
        assert not dl.is_grad_enabled()
        with dl.set_grad_enabled(True):
            assert (x * 2.0).requires_grad
    assert dl.is_grad_enabled()
    assert not y.requires_grad
    assert y.grad_fn is None


def test_no_grad_is_a_decorator_and_survives_errors():
    @dl.no_grad()
    def fail() -> None:
        assert not dl.is_grad_enabled()
        raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert dl.is_grad_enabled()


def test_no_grad_is_a_decorator_without_parentheses_too():
    @dl.no_grad
    def double(x):
        """Twice x."""
        return x * 2.0

    assert (double.__name__, double.__doc__) == ("double", "Twice x.")
    for _ in range(2):
        assert not double(x=leaf(1)).requires_grad
        assert dl.is_grad_enabled()


def test_no_grad_holds_in_its_own_thread_only():
    with dl.no_grad(), ThreadPoolExecutor(1) as pool:
        assert pool.submit(dl.is_grad_enabled).result()
        assert not dl.is_grad_enabled()
