"""Makes the buckets and MLflow's user of the jobs, where they are not there yet."""

import os

import boto3
import requests

s3 = boto3.client("s3")
found = {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}
for name in {"srmill", "mlflow"} - found:
    s3.create_bucket(Bucket=name)

users = f"{os.environ['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/users"
admin = ("admin", os.environ["MLFLOW_ADMIN_PASSWORD"])
answer = requests.get(f"{users}/get", {"username": "srmill"}, auth=admin, timeout=30)
if answer.status_code == 404:
    user = {"username": "srmill", "password": os.environ["MLFLOW_JOBS_PASSWORD"]}
    answer = requests.post(f"{users}/create", json=user, auth=admin, timeout=30)
answer.raise_for_status()
print("Buckets and user are there.")
