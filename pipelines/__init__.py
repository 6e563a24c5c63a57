"""How SRMill runs its work: Ray, DeepSpeed, webdataset, MLflow and storage live in here."""

__version__ = "0.1.0"
