"""The tests notice every small mistake in a backward, and not because everything counts as noticed."""

from __future__ import annotations

import ast

import mutation
import pytest


@pytest.mark.slow
def test_every_mistake_is_noticed(capsys):
    result = mutation.main([])
    report = capsys.readouterr().out
    with capsys.disabled():
        print("\n" + report.splitlines()[-1])
    assert result == 0, report


def place(name):
    return next(place for place in mutation.places() if place.name == name)


def test_the_mistakes_of_a_product():
    function = mutation.parse(place("Multiply").right)
    right = ast.unparse(function)
    wrong = [mutation.change(right, source)[1] for source in mutation.mistakes(function)]
    first, second = "dz * y if self.needs_grad[0] else None", "dz * x if self.needs_grad[1] else None"
    for mistake in (
        f"return (-(dz * y) if self.needs_grad[0] else None, {second})",
        f"return (dz if self.needs_grad[0] else None, {second})",
        f"return (dz / y if self.needs_grad[0] else None, {second})",
        f"return (dz * x if self.needs_grad[0] else None, {second})",
        f"return ({second}, {first})",
    ):
        assert mistake in wrong
    assert len(set(wrong)) == len(wrong) > 20


def test_what_no_check_goes_through_survives():
    unchecked = place("Tanh")
    counts, survivors = mutation.try_mistakes(unchecked)
    assert counts[""] == len(survivors) == counts.total() > 10
    mutation.find_rows([unchecked])
    assert [row.name for row in unchecked.rows] == ["tanh"]
    counts, survivors = mutation.try_mistakes(unchecked)
    assert counts[""] == 0
    assert not survivors
