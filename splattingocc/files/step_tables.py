"""Tables of numbers that a training adds a row to after each step, in CSV."""

from __future__ import annotations

import csv
from dataclasses import dataclass


@dataclass(frozen=True)
class StepTable:
    """What can be read of a table of numbers, a row for each step of a training."""

    columns: list[str]
    rows: list[dict[str, str]]
    unread: list[int]
    """Numbers, from 1, of the lines that are not a table's."""
    is_torn: bool
    """Whether the last line, of a process that was killed as it wrote, is without its end; it is left out."""


def read_step_table(content: bytes) -> StepTable:
    """Return what can be read of a table in CSV with a column `step`; what cannot is left out and counted."""
    *lines, last = content.split(b"\n")
    columns: list[str] = []
    rows: list[dict[str, str]] = []
    unread: list[int] = []
    for number, line in enumerate(lines, start=1):
        cells = _cells(line)
        if number == 1:
            if "step" in cells and "" not in cells and len({*cells}) == len(cells):
                columns = cells
            else:
                unread.append(number)
        elif columns and len(cells) == len(columns) and _are_numbers(row := dict(zip(columns, cells))):
            rows.append(row)
        else:
            unread.append(number)
    return StepTable(columns, rows, unread, is_torn=bool(last))


def _cells(line: bytes) -> list[str]:
    """Return the cells of a line; none where it is not one of CSV's."""
    try:
        return next(csv.reader([line.decode().removesuffix("\r")], strict=True), []) if b"\0" not in line else []
    except (UnicodeDecodeError, csv.Error):
        return []


def _are_numbers(row: dict[str, str]) -> bool:
    try:
        return int(row["step"]) >= 0 and all(cell == "" or float(cell) is not None for cell in row.values())
    except ValueError:
        return False
