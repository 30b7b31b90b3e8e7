"""The report of one quantisation: a self-contained HTML page (inline SVG and CSS, no scripts) beside the output."""

from __future__ import annotations

from edgekit.report.data import AblationRow, DevicePrediction, ReportData
from edgekit.report.page import write_report

__all__ = ["AblationRow", "DevicePrediction", "ReportData", "write_report"]
