"""The part of SRMill that is trained: pure PyTorch networks, losses, degradations, metrics and
exporters.

Nothing in here imports Ray, DeepSpeed, MLflow, boto3 or webdataset, so that the networks can be
used, read and tested on their own.
"""
