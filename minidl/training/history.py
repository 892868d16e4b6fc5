"""What happened in each epoch, kept as rows and written as JSON and CSV."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from minidl.errors import DataError
from minidl.files import write_text

COLUMNS = ("epoch", "train_loss", "train_accuracy", "valid_loss", "valid_accuracy", "lr", "seconds")
Row = dict[str, float | None]


class History:
    """One row for each epoch.

    Columns: `epoch` counts from 1; losses are means over the pictures, in nats; accuracies are fractions;
    `lr` is the learning rate when the epoch was over; `seconds` is the wall time of training and validation.
    `valid_loss` and `valid_accuracy` are None where there were no validation pictures.
    """

    def __init__(self, rows: Iterable[Mapping[str, float | None]] = ()) -> None:
        self.rows: list[Row] = [{column: row.get(column) for column in COLUMNS} for row in rows]

    def append(self, **row: float | None) -> Row:
        """Add a row; a column that is not given is None."""
        if unknown := sorted(set(row) - set(COLUMNS)):
            raise DataError(f"a history has no column {', '.join(unknown)}; it has {', '.join(COLUMNS)}")
        self.rows.append({column: row.get(column) for column in COLUMNS})
        return self.rows[-1]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __getitem__(self, column: str) -> list[float | None]:
        """A column: `history["train_loss"]`."""
        return [row[column] for row in self.rows]

    def best(self) -> Row | None:
        """The row of highest validation accuracy; of equals, the one of lowest loss; of those, the first.

        Without validation it is the last row; None if there is no row.
        """
        if not self.rows or self.rows[-1]["valid_accuracy"] is None:
            return self.rows[-1] if self.rows else None
        return min(self.rows, key=lambda row: (-(row["valid_accuracy"] or 0.0), row["valid_loss"] or 0.0))

    def save(self, folder: str | os.PathLike) -> None:
        """Write `history.json` and `history.csv` into `folder`, each atomically."""
        write_text(Path(folder) / "history.json", json.dumps(self.rows, indent=1) + "\n")
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(Path(folder) / "history.csv", table.getvalue())

    @classmethod
    def load(cls, folder: str | os.PathLike) -> History:
        """Read `history.json` from `folder`."""
        return cls(json.loads((Path(folder) / "history.json").read_text()))

    def __repr__(self) -> str:
        return f"History({len(self)} epochs)"


__all__ = ["COLUMNS", "History"]
