"""Devices: profiles and the benchmark harness."""
