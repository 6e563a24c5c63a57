#!/bin/sh
# Writes .env, from which `docker compose` takes the secrets, unless it is there already. Only this
# user can read it.
set -eu
cd "$(dirname "$0")"
umask 077
if [ ! -e .env ]; then
    for name in POSTGRES_PASSWORD MLFLOW_DB_PASSWORD MLFLOW_ADMIN_PASSWORD MLFLOW_JOBS_PASSWORD \
        MLFLOW_SESSION_KEY S3_ADMIN_KEY S3_MLFLOW_KEY S3_JOBS_KEY RAY_TOKEN; do
        echo "$name=$(python3 -c 'import secrets; print(secrets.token_hex(32))')"
    done > .env.new
    mv .env.new .env
fi
echo "The secrets are in $PWD/.env."
