#!/bin/sh
# Makes MLflow's user and databases: PostgreSQL's container runs this when its volume is new.
set -eu
psql -v ON_ERROR_STOP=1 -v password="$MLFLOW_DB_PASSWORD" --username "$POSTGRES_USER" <<'SQL'
create role mlflow login password :'password';
create database mlflow owner mlflow;
create database mlflow_auth owner mlflow;
revoke connect on database mlflow from public;
revoke connect on database mlflow_auth from public;
SQL
