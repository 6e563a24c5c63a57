"""Saves what the full platform knows in a folder, and brings it back on an empty machine."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from infra.local.platform import Platform, load, up
from infra.local.secrets import secret
from infra.local.servers import postgres, seaweedfs
from infra.local.servers.server import KEEPER, PlatformError, marked, stop
from pipelines.progress import progress
from pipelines.storage.files import write_json
from pipelines.storage.store import check_name
from pipelines.storage.typed import Document, read_typed, to_dict

#: What of work/ is copied as it is: passwords, and the authority that clients trust.
_KEPT = ("secrets", "tls", "ray_token")
_CONTENTS = "backup.json"


@dataclass(frozen=True)
class Contents(Document):
    """The last file of a backup: without it the backup is not complete.

    Attributes:
        objects: the objects of each bucket.
        databases: the databases.
    """

    VERSION: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "make a new backup"

    objects: dict[str, int]
    databases: tuple[str, ...]

    def describe(self, folder: Path) -> str:
        """Returns what there is, in one line."""
        objects = sum(self.objects.values())
        return f"{folder}: {len(self.databases)} databases, {objects} objects of S3, and secrets."


def backup(home: Path, folder: Path) -> Contents:
    """Saves databases, buckets and secrets of a running full platform, and returns what is there.

    Jobs may go on meanwhile. The databases come first: what they name is never deleted from the
    buckets, so it is there when the buckets are copied. Only this user can read the folder.

    Raises:
        PlatformError: the full platform does not run, or the folder is not empty.
    """
    platform = _running(home)
    if folder.exists() and any(folder.iterdir()):
        raise PlatformError(f"{folder} is not empty: name a new folder.")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)
    for name in postgres.DATABASES:
        with (folder / f"{name}.dump").open("wb") as output:
            _run_postgres(platform, ["pg_dump", "--format=custom", name], stdout=output)
    objects = {}
    for bucket in (seaweedfs.BUCKET, seaweedfs.MLFLOW_BUCKET):
        objects[bucket] = _download(platform, bucket, folder / "s3" / bucket)
    for name in _KEPT:
        path = home / "work" / name
        copy = shutil.copytree if path.is_dir() else shutil.copy2
        copy(path, folder / name)
    contents = Contents(objects, postgres.DATABASES)
    write_json(folder / _CONTENTS, to_dict(contents))
    return contents


def restore(home: Path, folder: Path) -> Contents:
    """Starts a full platform in a home that has none, with what a backup holds; returns that.

    Raises:
        PlatformError: the home has a platform already, or the backup is not complete.
        UserError: the backup's list of contents is damaged.
    """
    path = folder / _CONTENTS
    if not path.is_file():
        raise PlatformError(f"{folder} holds no complete backup: {_CONTENTS} is missing.")
    contents = read_typed(Contents, path.read_bytes(), str(path))
    work = home / "work"
    for name in (*_KEPT, "postgres", "s3"):
        if (work / name).exists():
            raise PlatformError(
                f"{work / name} is there already: restore into an empty folder, or move it away."
            )
    work.mkdir(parents=True, exist_ok=True)
    for name in _KEPT:
        copy = shutil.copytree if (folder / name).is_dir() else shutil.copy2
        copy(folder / name, work / name)
    platform = up(home, full=True)
    stop(process for name, process in marked(home) if name in (KEEPER, "MLflow"))
    for name in contents.databases:
        with (folder / f"{name}.dump").open("rb") as dump:
            command = [
                "pg_restore",
                "--clean",
                "--if-exists",
                "--exit-on-error",
                f"--dbname={name}",
            ]
            _run_postgres(platform, command, stdin=dump)
    for bucket, number in contents.objects.items():
        found = _upload(platform, bucket, folder / "s3" / bucket)
        if found != number:
            raise PlatformError(
                f"{folder}/s3/{bucket} holds {found} objects and not {number}: it is not complete."
            )
    up(home, full=True)
    return contents


def _running(home: Path) -> Platform:
    platform = load(home)
    if platform is None or not platform.full or not marked(home):
        raise PlatformError("the full platform does not run: start it with `make up FULL=1`.")
    return platform


def _run_postgres(platform: Platform, command: list[str], **streams: Any) -> None:
    """Runs one of PostgreSQL's programs as its administrator."""
    program, *options = command
    environment = os.environ | {
        "PGHOST": "127.0.0.1",
        "PGPORT": str(platform.ports["PostgreSQL"]),
        "PGUSER": postgres.ADMIN,
        "PGPASSWORD": secret(Path(platform.home), "postgres"),
    }
    done = subprocess.run(
        [str(postgres.programs() / program), *options],
        env=environment, stderr=subprocess.PIPE, text=True, check=False, **streams,
    )  # fmt: skip
    if done.returncode:
        raise PlatformError(f"{program} failed: {' '.join(done.stderr.split())[:300]}.")


def _download(platform: Platform, bucket: str, folder: Path) -> int:
    """Copies a bucket into a folder; returns the number of the copies."""
    client = seaweedfs.admin(Path(platform.home), platform.ports)
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    keys = [each["Key"] for page in pages for each in page.get("Contents", ())]
    folder.mkdir(parents=True)
    copied = 0
    with progress(f"save {bucket}", total=len(keys), unit="object") as bar:
        for key in keys:
            path = folder / check_name(key)
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                client.download_file(bucket, key, str(path))
                copied += 1
            except client.exceptions.ClientError as error:
                if error.response["Error"]["Code"] not in ("404", "NoSuchKey"):
                    raise
                # A run that goes on has removed an old checkpoint.
            bar.update()
    return copied


def _upload(platform: Platform, bucket: str, folder: Path) -> int:
    """Copies a folder into a bucket; returns the number of its files."""
    client = seaweedfs.admin(Path(platform.home), platform.ports)
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    with progress(f"restore {bucket}", total=len(found), unit="object") as bar:
        for path in found:
            client.upload_file(str(path), bucket, path.relative_to(folder).as_posix())
            bar.update()
    return len(found)
