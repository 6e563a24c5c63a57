"""Saves what the full platform knows in a folder, and brings it back on an empty machine."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from botocore.exceptions import BotoCoreError, ClientError

from infra.local.platform import Platform, bring_up, down, load, restoring, up
from infra.local.secrets import secret
from infra.local.servers import postgres, seaweedfs
from infra.local.servers.server import PlatformError, marked, stop, stop_keeper
from pipelines.errors import first_line
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
        PlatformError: the full platform does not run, a server fails, or the folder is not empty.
    """
    platform = _running(home)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise PlatformError(f"{folder} is not an empty folder: name a new one.")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)
    for name in postgres.DATABASES:
        with (folder / f"{name}.dump").open("wb") as output:
            _run_postgres(platform, ["pg_dump", "--format=custom", name], stdout=output)
    objects = {}
    try:
        for bucket in (seaweedfs.BUCKET, seaweedfs.MLFLOW_BUCKET):
            objects[bucket] = _download(platform, bucket, folder / "s3" / bucket)
    except (BotoCoreError, ClientError) as error:
        raise PlatformError(f"S3 fails ({first_line(error)}): see `make status`.") from None
    for name in _KEPT:
        _copy(home / "work" / name, folder / name)
    contents = Contents(objects, postgres.DATABASES)
    write_json(folder / _CONTENTS, to_dict(contents))
    return contents


def restore(home: Path, folder: Path) -> Contents:
    """Starts a full platform in a home that has none, with what a backup holds; returns that.

    Raises:
        PlatformError: the home has a platform already, or the backup is not complete.
        UserError: the backup's list of contents is damaged.
    """
    path, work = folder / _CONTENTS, home / "work"
    if not path.is_file():
        raise PlatformError(f"{folder} holds no complete backup: {_CONTENTS} is missing.")
    contents = read_typed(Contents, path.read_bytes(), str(path))
    _check(contents, folder)
    for name in (*_KEPT, "postgres", "s3"):
        if (work / name).exists():
            raise PlatformError(
                f"{work / name} is there already: restore into an empty folder, or move it away."
            )
    work.mkdir(parents=True, exist_ok=True)
    try:
        # Whoever starts the platform from now on is told that it is not complete.
        restoring(home).touch()
        platform = _start(home, folder)
        stop_keeper(home)
        stop(process for name, process in marked(home) if name == "MLflow")
        for name in contents.databases:
            _load(platform, name, folder)
        for bucket in contents.objects:
            _upload(platform, bucket, folder / "s3" / bucket)
    except BaseException:
        down(home, quiet=True)
        for name in (*_KEPT, "postgres", "s3", "restoring"):
            _remove(work / name)
        raise
    restoring(home).unlink()
    up(home, full=True)
    return contents


def _check(contents: Contents, folder: Path) -> None:
    """Raises PlatformError if a file of a backup is missing."""
    missing = [name for name in _KEPT if not (folder / name).exists()]
    missing += [f"{n}.dump" for n in contents.databases if not (folder / f"{n}.dump").is_file()]
    if missing:
        raise PlatformError(f"{folder} holds no complete backup: {missing[0]} is missing.")
    for bucket, number in contents.objects.items():
        found = len(_files(folder / "s3" / bucket))
        if found != number:
            raise PlatformError(
                f"{folder}/s3/{bucket} holds {found} files and not {number}: it is not complete."
            )


def _start(home: Path, folder: Path) -> Platform:
    """Starts an empty platform with the secrets of a backup."""
    mask = os.umask(0o077)
    try:
        for name in _KEPT:
            _copy(folder / name, home / "work" / name)
    finally:
        os.umask(mask)
    return bring_up(home, full=True)


def _load(platform: Platform, name: str, folder: Path) -> None:
    """Replaces a database by a saved one."""
    options = ("--clean", "--if-exists", "--exit-on-error", f"--dbname={name}")
    with (folder / f"{name}.dump").open("rb") as dump:
        _run_postgres(platform, ["pg_restore", *options], stdin=dump)


def _copy(source: Path, target: Path) -> None:
    (shutil.copytree if source.is_dir() else shutil.copy2)(source, target)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


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
    keys = [key for key in keys if not key.endswith("/")]  # marks of folders
    folder.mkdir(parents=True)
    copied = 0
    with progress(f"save {bucket}", total=len(keys), unit="object") as bar:
        for key in keys:
            path = folder / check_name(key)
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                client.download_file(bucket, key, str(path))
                copied += 1
            except ClientError as error:
                if error.response["Error"]["Code"] not in ("404", "NoSuchKey"):
                    raise
                # A run that goes on has removed an old checkpoint.
            bar.update()
    return copied


def _upload(platform: Platform, bucket: str, folder: Path) -> None:
    """Copies a folder into a bucket."""
    client = seaweedfs.admin(Path(platform.home), platform.ports)
    found = _files(folder)
    with progress(f"restore {bucket}", total=len(found), unit="object") as bar:
        for path in found:
            client.upload_file(str(path), bucket, path.relative_to(folder).as_posix())
            bar.update()
