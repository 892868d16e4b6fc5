"""The rows of the table of operations as strategies of hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st

from minidl.operations import OPERATIONS, Case


@st.composite
def cases(draw: st.DrawFn, name: str) -> Case:
    """A drawn sample of the row of that name. Printed, it is the line that repeats the checks."""
    return OPERATIONS[name].draw(lambda n: draw(st.integers(0, n - 1)))
