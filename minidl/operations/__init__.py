"""The table of operations: one row for each, with what to try it with and what it must agree with.

Every check runs over every row (`tests/functional/test_operations.py`); a new operation is a new row.
"""

from minidl.operations import elementary, layers, structural
from minidl.operations.row import Draw, Mistake, Operation, Sample

OPERATIONS: dict[str, Operation] = {
    row.name: row for rows in (elementary, structural, layers) for row in rows.OPERATIONS
}

__all__ = ["OPERATIONS", "Draw", "Mistake", "Operation", "Sample"]
