"""Names the public photo sets, downloads them, and checks their files."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipelines.data.download import download
from pipelines.storage.paths import home


@dataclass(frozen=True)
class Archive:
    """One file of a public set.

    Attributes:
        size: the number of bytes; None if it is unknown.
        within: the part of a member's name that marks HR photos.
        split: the split that the set gives to its photos.
        sha256: the checksum, in hexadecimal digits; None if it is unknown.
        md5: the checksum of a set that publishes no other.
    """

    url: str
    size: int | None
    within: str
    split: str
    sha256: str | None = None
    md5: str | None = None

    @property
    def file(self) -> str:
        """The name of the file, on the server and here."""
        return self.url.rpartition("/")[2]


#: DIV2K: Agustsson and Timofte, NTIRE 2017. Flickr2K: Lim et al., EDSR, NTIRE 2017.
SETS: dict[str, tuple[Archive, ...]] = {
    "div2k": (
        Archive(
            url="https://data.vision.ee.ethz.ch/cvl/DIV2K/DIV2K_train_HR.zip",
            size=3530603713,
            within="DIV2K_train_HR/",
            split="train",
            sha256="9d0b9c463f6e35b6c62cc6a930ee2224f670b34c1df841a57670f9acf0f6c335",
        ),
        Archive(
            url="https://data.vision.ee.ethz.ch/cvl/DIV2K/DIV2K_valid_HR.zip",
            size=448993893,
            within="DIV2K_valid_HR/",
            split="val",
            sha256="20dd31fd84d777bc1cf5d6b7654a3f569c0aec74458ae094122ad1d0489900fc",
        ),
    ),
    "flickr2k": (
        Archive(
            url="https://cv.snu.ac.kr/research/EDSR/Flickr2K.tar",
            size=None,
            within="Flickr2K_HR/",
            split="train",
            md5="5d3f39443d5e9489bff8963f8f26cb03",
        ),
    ),
}


def directory() -> Path:
    """Returns the folder that keeps downloads."""
    return home() / "work" / "sources"


def missing_archives(name: str) -> list[Archive]:
    """Returns the files of a set that have not been downloaded."""
    return [archive for archive in SETS[name] if not (directory() / archive.file).exists()]


def archives_of(name: str, mirror: str | None) -> Iterator[tuple[Path, Archive]]:
    """Yields a set's files; downloads those that are missing, and checks all.

    Args:
        mirror: a URL that holds files of equal names, instead of the set's own server.

    Raises:
        UserError: the server does not answer, or a file is not the expected one.
    """
    for archive in SETS[name]:
        path = directory() / archive.file
        url = f"{mirror.rstrip('/')}/{archive.file}" if mirror else archive.url
        download(url, path, size=archive.size, sha256=archive.sha256, md5=archive.md5)
        yield path, archive
