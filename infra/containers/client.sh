# Makes this shell a client of the containers, passwords included. Source it in the root of the
# checkout while they run: `. infra/containers/client.sh`.
_srmill_value() {
    sed -n "s/^$1=//p" infra/containers/.env | tail -n 1 | tr -d "\"'"
}

_srmill_client() {
    if [ ! -r infra/containers/.env ]; then
        echo "There is no infra/containers/.env here: go to the root of the checkout." >&2
        return 1
    fi
    if ! docker compose -f infra/containers/compose.yaml cp \
        caddy:/data/caddy/pki/authorities/local/root.crt infra/containers/root.crt; then
        echo "The containers do not run: docker compose -f infra/containers/compose.yaml up" >&2
        return 1
    fi
    cat "$(.venv/bin/python -m certifi)" infra/containers/root.crt > infra/containers/ca.pem ||
        return 1
    _srmill_site=${SITE:-$(_srmill_value SITE)}
    _srmill_site=${_srmill_site:-localhost}
    # As work/platform.env does: what else a shell may hold for other servers.
    unset AWS_PROFILE AWS_DEFAULT_PROFILE AWS_SESSION_TOKEN AWS_REGION AWS_ENDPOINT_URL_S3 \
        MLFLOW_TRACKING_TOKEN MLFLOW_TRACKING_SERVER_CERT_PATH
    export RAY_API_SERVER_ADDRESS="https://$_srmill_site:8443" \
        RAY_AUTH_MODE=token \
        RAY_AUTH_TOKEN="$(_srmill_value RAY_TOKEN)" \
        MLFLOW_TRACKING_URI="https://$_srmill_site:5443" \
        MLFLOW_TRACKING_USERNAME=srmill \
        MLFLOW_TRACKING_PASSWORD="$(_srmill_value MLFLOW_JOBS_PASSWORD)" \
        AWS_ENDPOINT_URL="https://$_srmill_site:8334" \
        AWS_DEFAULT_REGION=us-east-1 \
        AWS_ACCESS_KEY_ID=srmill \
        AWS_SECRET_ACCESS_KEY="$(_srmill_value S3_JOBS_KEY)" \
        AWS_CA_BUNDLE="$PWD/infra/containers/ca.pem" \
        REQUESTS_CA_BUNDLE="$PWD/infra/containers/ca.pem" \
        SSL_CERT_FILE="$PWD/infra/containers/ca.pem"
    unset _srmill_site
}

_srmill_client
