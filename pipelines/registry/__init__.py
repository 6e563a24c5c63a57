"""Bundles, the MLflow model registry, and the gate in front of `champion`."""
