"""Every check, over samples that hypothesis draws for each row of the table of operations."""

from __future__ import annotations

import re

import pytest
from drawn_cases import cases
from hypothesis import given, settings

import minidl
from minidl.functional.activation import Softmax
from minidl.operations import OPERATIONS, checks

EXAMPLES, GPU_EXAMPLES = 60, 15  # of each row; CuPy compiles a kernel for each kind of array
WITH_MANY_OPTIONS = ("conv2d", "conv_transpose2d", "max_pool2d", "avg_pool2d", "getitem", "cross_entropy")
found: set[tuple[str, ...]] = set()  # every (operation, sample, dtype, layout) that was checked


@pytest.mark.parametrize("name", OPERATIONS)
def test_drawn(name):
    @settings(max_examples=150 if name in WITH_MANY_OPTIONS else EXAMPLES, report_multiple_bugs=False)
    @given(case=cases(name))
    def run(case):
        checks.check(case.row, case.sample, method="projection")
        found.update((name, repr(case.sample), *how) for how in checks.FORMS)

    run()


def test_ten_thousand_distinct_cases_were_drawn(capsys):
    if {name for name, *_ in found} != set(OPERATIONS):
        pytest.skip("counts what test_drawn has drawn of every row")
    with capsys.disabled():
        print(f"\n{len(found)} distinct cases of {len(OPERATIONS)} operations were drawn and checked")
    assert len(found) >= 10_000


@pytest.mark.gpu
@pytest.mark.parametrize("name", OPERATIONS)
def test_the_gpu_computes_the_same(name):
    @settings(max_examples=GPU_EXAMPLES)
    @given(case=cases(name))
    def run(case):
        checks.check_gpu(case.row, case.sample)

    run()


def test_what_fails_is_printed_as_one_line_that_fails_again(monkeypatch):
    monkeypatch.setattr(Softmax, "backward", lambda self, dy: dy * self.saved[0])
    with pytest.raises(AssertionError, match="gradcheck FAILED") as caught:
        test_drawn("softmax")
    (line,) = re.findall(r"minidl\.operations\.replay\(.*\)", "\n".join(caught.value.__notes__))
    assert line == "minidl.operations.replay('softmax', 0, 0, 0)"  # two numbers, no options
    with pytest.raises(AssertionError, match="gradcheck FAILED"):
        eval(line, {"minidl": minidl})
    monkeypatch.undo()
    eval(line, {"minidl": minidl})
