"""SeaweedFS, an S3 server: it holds shards, checkpoints, bundles and MLflow's files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infra.local.certificates import keep_certificates
from infra.local.secrets import JOBS, secret, write_private
from infra.local.servers.server import Server, answers, environment_of, without_credentials

PORTS = {
    "S3": 8333, "S3 master": 9333, "S3 volume": 9340, "S3 filer": 8888,
    "S3 grpc": 25001, "S3 master grpc": 25101, "S3 volume grpc": 25201, "S3 filer grpc": 25301,
}  # fmt: skip
#: The bucket of the jobs, and MLflow's.
BUCKET, MLFLOW_BUCKET = "srmill", "mlflow"
REGION = "us-east-1"
_ALL = ("Admin", "Read", "Write", "List", "Tagging")
#: Who may do what: what an identity may do is what it may do in its bucket.
ALLOWED = {
    "admin": _ALL,
    JOBS: tuple(f"{action}:{BUCKET}" for action in _ALL[1:]),
    "mlflow": tuple(f"{action}:{MLFLOW_BUCKET}" for action in _ALL[1:]),
}


def seaweedfs(home: Path, ports: Mapping[str, int], log: Path) -> Server:
    """Returns the S3 server of a home. It listens on 127.0.0.1, and refuses what is not signed by
    one of its identities, on every port."""
    url = f"http://127.0.0.1:{ports['S3']}"
    data, identities = home / "work" / "s3", home / "work" / "secrets" / "s3.json"
    command = (
        "weed", f"-logdir={log.parent}",  # It would write files of its own to /tmp.
        "server", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
        "-master.electionTimeout=1s",  # It is alone, and need not wait for other masters' votes.
        "-master.telemetry=false", "-master.volumeSizeLimitMB=1024", "-volume.max=0",
        "-s3", f"-s3.config={identities}", "-s3.allowDeleteBucketNotEmpty=false",
        "-s3.iam=false", "-s3.port.iceberg=0", "-s3.port.lance=0",
        *(
            f"-{flag}={ports[name]}"
            for flag, name in (
                ("s3.port", "S3"), ("s3.port.grpc", "S3 grpc"),
                ("master.port", "S3 master"), ("master.port.grpc", "S3 master grpc"),
                ("volume.port", "S3 volume"), ("volume.port.grpc", "S3 volume grpc"),
                ("filer.port", "S3 filer"), ("filer.port.grpc", "S3 filer grpc"),
            )
        ),
    )  # fmt: skip

    def prepare() -> None:
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write_identities(home, identities)

    return Server(
        "S3",
        command,
        without_credentials(environment_of(home)) | {"GOMEMLIMIT": "300MiB"} | _inner_keys(home),
        log,
        url,
        answers=lambda: answers(f"{url}/healthz") == 200,
        prepare=prepare,
        settle=lambda: make_buckets(admin(home, ports)),
    )


def credentials(home: Path, identity: str) -> dict[str, str]:
    """Returns the environment with which an identity signs its requests."""
    return {
        "AWS_ACCESS_KEY_ID": identity,
        "AWS_SECRET_ACCESS_KEY": secret(home, f"s3-{identity}"),
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def _inner_keys(home: Path) -> dict[str, str]:
    """Returns the settings by which the server's parts ask each other, and everybody else, for a
    signature or a certificate. Without them every user of this machine could read and delete what
    S3 holds: by the ports behind S3's own."""
    word = secret(home, "s3-parts")
    authority, own, key = keep_certificates(home / "work" / "secrets", "s3-parts")
    signed = ("SIGNING", "SIGNING_READ", "FILER_SIGNING", "FILER_SIGNING_READ")
    parts = ("MASTER", "VOLUME", "FILER", "S3", "CLIENT")
    return {
        **{f"WEED_JWT_{name}_KEY": word for name in signed},
        "WEED_GRPC_CA": str(authority),
        **{f"WEED_GRPC_{part}_CERT": str(own) for part in parts},
        **{f"WEED_GRPC_{part}_KEY": str(key) for part in parts},
    }


def _write_identities(home: Path, path: Path) -> None:
    found = [
        {
            "name": name,
            "credentials": [{"accessKey": name, "secretKey": secret(home, f"s3-{name}")}],
            "actions": list(actions),
        }
        for name, actions in ALLOWED.items()
    ]
    write_private(path, json.dumps({"identities": found}).encode())


def admin(home: Path, ports: Mapping[str, int]) -> Any:
    """Returns a client of a home's server that may do everything. It is patient, since the server
    may answer before it can do all."""
    import boto3
    from botocore.config import Config

    return boto3.session.Session().client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{ports['S3']}",
        aws_access_key_id="admin",
        aws_secret_access_key=secret(home, "s3-admin"),
        region_name=REGION,
        config=Config(retries={"mode": "standard", "total_max_attempts": 10}),
    )


def make_buckets(client: Any) -> None:
    """Makes the buckets, where they are not there yet, by a client of boto3's."""
    found = {each["Name"] for each in client.list_buckets()["Buckets"]}
    for name in (BUCKET, MLFLOW_BUCKET):
        if name not in found:
            client.create_bucket(Bucket=name)
