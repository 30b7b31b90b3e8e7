"""Quantisation: formats, statistics, sensitivity, the plan and rounding."""
