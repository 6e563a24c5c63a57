"""Makes the buckets and MLflow's user of the jobs, where they are not there yet."""

import os

import boto3

from infra.local.servers.mlflow import make_user
from infra.local.servers.seaweedfs import make_buckets

make_buckets(boto3.client("s3"))
make_user(
    os.environ["MLFLOW_TRACKING_URI"],
    os.environ["MLFLOW_ADMIN_PASSWORD"],
    os.environ["MLFLOW_JOBS_PASSWORD"],
)
print("Buckets and user are there.")
