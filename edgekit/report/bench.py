"""A benchmark's result, or a comparison of two, as a file: JSON, a table, or a page to look at."""

from __future__ import annotations

from pathlib import Path

from edgekit.devices.comparison import Comparison
from edgekit.devices.result import BenchResult, json_text
from edgekit.models.errors import InputError
from edgekit.models.files import atomic_write
from edgekit.report.bench_csv import csv_text
from edgekit.report.bench_page import bench_page
from edgekit.report.comparison_page import comparison_page

KINDS = (".json", ".html", ".csv")


def kind_of(path: Path) -> str:
    """Which of KINDS the path's ending is; InputError for another."""
    kind = path.suffix.lower()
    if kind not in KINDS:
        raise InputError(f"-o {path} does not end in {', '.join(KINDS)}: its ending says what is written")
    return kind


def write(result: BenchResult | Comparison, path: Path) -> Path:
    """Write it, whole or not at all, as the path's ending says, and return the path.

    Raises InputError for another ending or a folder that cannot be written to, TargetError where the disk is full.
    """
    kind = kind_of(path)
    if kind == ".html":
        text = comparison_page(result) if isinstance(result, Comparison) else bench_page(result)
    else:
        text = csv_text(result) if kind == ".csv" else json_text(result) + "\n"
    with atomic_write(path) as file:
        file.write(text.encode())
    return path
