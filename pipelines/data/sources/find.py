"""Finds the files that look like photos in the sources that `source=` names, in a fixed order."""

import gzip
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipelines.config.schema import ShardConfig
from pipelines.data.sources.entries import EXTENSIONS, Entry, is_photo_name
from pipelines.data.sources.public import SETS, archives_of, missing_archives
from pipelines.errors import UserError, listing, told
from pipelines.storage.digests import digest
from pipelines.storage.files import whole_file
from pipelines.storage.paths import ROOT, home, in_submitted_job, resolve
from pipelines.storage.retries import RetryPolicy
from pipelines.storage.store import open_store

#: The folder of a node in which Ray unpacks the working directories of jobs.
UPLOADS = "working_dir_files"
SAMPLE = Path(__file__).parents[1] / "sample"
#: The sample's own validation photos: the `edge_sd_sr_tiny` that ships was not trained on them.
HELD_OUT = ("budgie_oakland-zoo-otters.jpg", "budgie_tea-gardens.jpg")
#: What a user does whose photos the nodes do not see.
PHOTOS_REMEDY = (
    "put them into a folder that all nodes see, outside the checkout, or at s3://bucket/prefix, "
    "and set source to that"
)
_COMPRESSED: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".tgz": gzip.open, ".xz": lzma.open}


def find_entries(
    source: str | list[str],
    mirror: str | None = None,
    policy: RetryPolicy = RetryPolicy(),
    max_unpacked_gib: float = ShardConfig().max_unpacked_gib,
) -> list[Entry]:
    """Returns the photo files of one source or several, ordered by name within each source.

    It downloads a public set first.

    Args:
        mirror: a URL that holds the files of public sets, instead of their own servers.
        policy: limits the waiting for object storage.
        max_unpacked_gib: limits the size of a compressed tar's plain copy, GiB.

    Raises:
        UserError: a source does not exist, cannot be read, holds no photo, or unpacks to too much.
    """
    entries: list[Entry] = []
    for name in as_list(source):
        found = list(_find(name, mirror, policy, max_unpacked_gib))
        if not found:
            raise UserError(
                f"source '{name}' holds no photo: expected files ending in {listing(EXTENSIONS)}."
            )
        entries += sorted(found, key=lambda entry: (entry.container, entry.name))
    return entries


def describe_source(
    source: str | list[str], mirror: str | None = None, policy: RetryPolicy = RetryPolicy()
) -> str:
    """Describes sources for a plan, without downloading, decompressing or decoding anything.

    Raises:
        UserError: a source does not exist, cannot be read, or holds no photo.
    """
    lines = []
    for name in as_list(source):
        if name in SETS and (missing := missing_archives(name)):
            size = sum(archive.size or 0 for archive in missing) / 1e9
            files = listing(archive.file for archive in missing)
            lines.append(f"source '{name}' would be downloaded first: {files} ({size:.1f} GB)")
            continue
        if Path(name).suffix in _COMPRESSED and resolve(name).is_file():
            lines.append(f"source '{name}' would be decompressed first")
            continue
        found = find_entries(name, mirror, policy)
        size = sum(entry.size for entry in found) / 2**20
        lines.append(f"{len(found)} photo files ({size:.1f} MiB) in source '{name}'")
    return "; ".join(lines)


def as_list(source: str | list[str]) -> list[str]:
    """Returns one source or several as a list of names.

    Raises:
        UserError: `source` is neither a name nor a list of names.
    """
    names = [source] if isinstance(source, str) else source
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise UserError(f"source must be a name or a list such as [div2k,flickr2k], not {source}.")
    return names


def _find(
    name: str, mirror: str | None, policy: RetryPolicy, max_unpacked_gib: float
) -> Iterator[Entry]:
    if name == "sample":
        return _sample()
    if name in SETS:
        return (entry for path, archive in archives_of(name, mirror)
                for entry in _in_archive(path, max_unpacked_gib, archive.within,
                                         archive.split))  # fmt: skip
    if "://" in name:
        return _in_store(name, policy)
    path = resolve(name)
    _refuse_upload(name, path)
    if path.is_dir():
        return _in_store(str(path))
    if path.is_file():
        return _in_archive(path, max_unpacked_gib)
    known = listing(["sample", *SETS])
    hint = " (several sources are a list: source=[a,b])" if "," in name else ""
    if in_submitted_job():
        hint += f" (photos in a checkout are not uploaded: {PHOTOS_REMEDY})"
    raise UserError(
        f"source '{name}' does not exist ({path}): give a folder, a zip, a tar, an s3:// prefix, "
        f"or one of {known}{hint}."
    )


def _sample() -> Iterator[Entry]:
    for entry in _in_store(str(SAMPLE)):
        yield replace(entry, split="val" if Path(entry.name).name in HELD_OUT else "train")


def _refuse_upload(name: str, path: Path) -> None:
    """Raises UserError if a submitted job looks for photos in the uploaded copy of the checkout.

    `.rayignore` keeps photos out of it.
    """
    is_upload = UPLOADS in ROOT.parts and in_submitted_job()
    if is_upload and path.resolve().is_relative_to(ROOT):
        raise UserError(
            f"source '{name}' lies in the uploaded copy of the checkout ({path}), and photos are "
            f"not uploaded: {PHOTOS_REMEDY}."
        )


def _in_store(location: str, policy: RetryPolicy = RetryPolicy()) -> Iterator[Entry]:
    for name, stamp in open_store(location, policy=policy).stamps().items():
        if is_photo_name(name):
            yield Entry("file", location, name, stamp.size, policy=policy, mark=stamp.mark)


def _in_archive(
    path: Path, max_unpacked_gib: float, within: str = "", split: str | None = None
) -> Iterator[Entry]:
    if zipfile.is_zipfile(path):
        return _in_zip(path, within, split)
    if path.suffix not in _COMPRESSED:
        return _in_tar(path, path, within, split)
    plain = _decompressed(path, max_unpacked_gib)
    found: list[Entry] = []
    try:
        found = list(_in_tar(path, plain, within, split))
    finally:
        if not found:  # a copy of no use would stay for ever
            plain.unlink(missing_ok=True)
    return iter(found)


def _in_zip(path: Path, within: str, split: str | None) -> Iterator[Entry]:
    try:
        mark = _mark(path)
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                name = info.filename
                if within in name and is_photo_name(name) and not info.is_dir():
                    place = name, info.file_size, info.header_offset
                    yield Entry(
                        "zip", str(path), *place, split, mark=f"{mark} {info.header_offset}"
                    )
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise UserError(f"{path} is a damaged zip ({error}): copy it again.") from None


def _in_tar(path: Path, plain: Path, within: str, split: str | None) -> Iterator[Entry]:
    """Yields regular members only, since links and devices lead out of the archive.

    Args:
        path: the archive, for messages.
        plain: its plain copy; the archive itself if it is not compressed.
    """
    try:
        mark = _mark(plain)
        with tarfile.open(plain, "r:") as archive:
            for info in archive:
                if within in info.name and is_photo_name(info.name) and info.isreg():
                    if info.issparse():
                        raise UserError(
                            f"{path} holds {told(info.name)} with holes, and photos are read where "
                            "they lie: pack it again without --sparse."
                        )
                    place = info.name, info.size, info.offset_data
                    yield Entry("tar", str(plain), *place, split, mark=f"{mark} {info.offset_data}")
            end = archive.offset
    except UserError:
        raise
    except (tarfile.TarError, OSError, ValueError) as error:
        raise UserError(
            f"{path} is not a readable zip or tar ({error}): give a folder, a zip or a tar."
        ) from None

    # tarfile takes a damaged header, or an early end of the file, for the end of the archive.
    with plain.open("rb") as file:
        file.seek(end)
        if file.read(512) != bytes(512):
            raise UserError(f"{path} is cut or damaged at byte {end}: copy it again.")


def _mark(archive: Path) -> str:
    stat = archive.stat()
    return f"{stat.st_size} {stat.st_mtime_ns}"


def _decompressed(path: Path, max_gib: float) -> Path:
    """Returns a plain tar of a compressed one, which cannot be read from the middle."""
    stat = path.stat()
    identity = digest([str(path), stat.st_size, stat.st_mtime_ns])[:16]
    target = home() / "work" / "sources" / f"{path.name.partition('.')[0]}-{identity}.tar"
    if target.exists():
        return target
    print(f"Decompressing {path} to {target}", flush=True)
    with whole_file(target) as temporary, temporary.open("wb") as plain:
        try:
            with _COMPRESSED[path.suffix](path, "rb") as packed:
                while block := packed.read(2**20):
                    plain.write(block)
                    if plain.tell() > max_gib * 2**30:
                        raise UserError(
                            f"{path} unpacks to more than shard.max_unpacked_gib={max_gib:g}: "
                            "allow more if you trust it, or give another archive."
                        )
        except (gzip.BadGzipFile, EOFError, zlib.error, lzma.LZMAError) as error:
            raise UserError(f"{path} cannot be decompressed ({error}): copy it again.") from None
    return target
