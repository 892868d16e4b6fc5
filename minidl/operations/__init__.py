"""The table of operations: one row for each, with what to try it with and what it must agree with.

Every check (`checks.py`) runs over every row, at the samples that it lists and at
others that are drawn. The rows stand in files named as those of the operations in `functional/`; a new
operation is a new row.
"""

from minidl.operations import (
    activation,
    arithmetic,
    convolution,
    dropout,
    loss,
    matmul,
    normalization,
    pooling,
    reduction,
    shape,
    unfold,
)
from minidl.operations.checks import check
from minidl.operations.row import Case, Kink, Mistake, Operation, Sample

OPERATIONS: dict[str, Operation] = {
    row.name: row
    for rows in (
        arithmetic,
        activation,
        reduction,
        matmul,
        shape,
        convolution,
        unfold,
        pooling,
        normalization,
        dropout,
        loss,
    )
    for row in rows.OPERATIONS
}


def replay(name: str, *choices: int) -> None:
    """Repeat the checks of a drawn sample, as a test that fails prints it. Choices not given are 0."""
    left = iter(choices)
    case = OPERATIONS[name].draw(lambda n: next(left, 0))
    print(f"{name}{case.sample!r}")
    check(case.row, case.sample)


__all__ = ["OPERATIONS", "Case", "Kink", "Mistake", "Operation", "Sample", "replay"]
