# Makes this shell a client of the containers, passwords included. Read it in the root of the
# checkout, when they run: `. infra/containers/client.sh`.
_folder=$PWD/infra/containers
_value() { sed -n "s/^$1=//p" "$_folder/.env"; }
docker compose -f "$_folder/compose.yaml" cp \
    caddy:/data/caddy/pki/authorities/local/root.crt "$_folder/root.crt"
cat "$("$PWD/.venv/bin/python" -m certifi)" "$_folder/root.crt" > "$_folder/ca.pem"
_site=$(_value SITE)
export RAY_API_SERVER_ADDRESS="https://${_site:-localhost}:8443" \
    RAY_AUTH_MODE=token \
    RAY_AUTH_TOKEN="$(_value RAY_TOKEN)" \
    MLFLOW_TRACKING_URI="https://${_site:-localhost}:5443" \
    MLFLOW_TRACKING_USERNAME=srmill \
    MLFLOW_TRACKING_PASSWORD="$(_value MLFLOW_JOBS_PASSWORD)" \
    AWS_ENDPOINT_URL="https://${_site:-localhost}:8334" \
    AWS_DEFAULT_REGION=us-east-1 \
    AWS_ACCESS_KEY_ID=srmill \
    AWS_SECRET_ACCESS_KEY="$(_value S3_JOBS_KEY)" \
    AWS_CA_BUNDLE="$_folder/ca.pem" \
    REQUESTS_CA_BUNDLE="$_folder/ca.pem" \
    SSL_CERT_FILE="$_folder/ca.pem"
