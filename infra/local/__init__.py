"""The platform on one machine: a Ray head with job server and dashboard, and an MLflow server."""
