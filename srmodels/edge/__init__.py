"""Exporters and runners of edge artifacts."""
