"""Registers bundles in MLflow, and decides at a gate which of them becomes `champion`."""
