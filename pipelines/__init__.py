"""Runs SRMill's work with Ray, DeepSpeed, webdataset, MLflow and storage."""

__version__ = "0.1.0"
