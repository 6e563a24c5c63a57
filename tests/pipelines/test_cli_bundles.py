"""`srmill fetch`, `sign` and `verify`."""

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from pipelines.models import bundle as bundle_module
from pipelines.models.bundle import SIGNATURE, Bundle, load_bundle, seal
from tests.pipelines.test_cli import photo, srmill
from tests.support.bundles import make_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle").path


def make_keys(folder: Path, name: str = "key") -> tuple[Path, Path]:
    """A private and a public key, as openssl writes them."""
    private, public = folder / f"{name}.pem", folder / f"{name}.pub.pem"
    key = Ed25519PrivateKey.generate()
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public


def content(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_a_bundle_is_fetched_whole_and_again(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):  # its own bundle may be replaced
        assert srmill("fetch", bundle, tmp_path / "phone") == 0
        assert str(tmp_path / "phone") in capsys.readouterr().out
        assert content(tmp_path / "phone") == content(bundle)
    assert srmill("fetch", "rdsr", tmp_path / "shipped") == 0
    assert load_bundle(tmp_path / "shipped").facts.name == "rdsr"


def test_a_folder_of_somebody_else_is_not_replaced(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "phone").mkdir()
    (tmp_path / "phone" / "app.apk").write_text("mine")
    assert srmill("fetch", bundle, tmp_path / "phone") == 2
    assert "app.apk" in capsys.readouterr().err
    assert content(tmp_path / "phone") == {"app.apk": b"mine"}


@pytest.mark.parametrize("reference", ["run:small-joint", "bicubic", "nosuch", "models:/a"])
def test_what_is_no_bundle_is_refused(
    reference: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert srmill("fetch", reference, tmp_path / "phone") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert not (tmp_path / "phone").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "config.yaml", "images.csv"])
def test_a_flipped_byte_is_seen(
    name: str, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert srmill("verify", bundle) == 0
    assert "no signature was asked for" in capsys.readouterr().out
    data = bytearray((bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / name).write_bytes(data)
    for command in (("verify", bundle), ("fetch", bundle, tmp_path / "phone")):
        assert srmill(*command) == 2
        assert f"{name} is missing or damaged" in capsys.readouterr().err
    assert not (tmp_path / "phone").exists()


def test_a_signature_is_checked_wherever_it_is_asked_for(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    private, public = make_keys(tmp_path)
    _, other = make_keys(tmp_path, "other")
    source, target = photo(tmp_path / "a.png"), tmp_path / "b.png"

    def commands(*options: object) -> list[int]:
        (tmp_path / "b.png").unlink(missing_ok=True)
        shutil.rmtree(tmp_path / "phone", ignore_errors=True)
        upscale = ("upscale", source, target, "--model", bundle, *options)
        fetch = ("fetch", bundle, tmp_path / "phone", *options)
        return [srmill(*command) for command in (("verify", bundle, *options), fetch, upscale)]

    asked = ("--require-signature", "--public-key", public)
    assert commands(*asked) == [2, 2, 2]
    assert capsys.readouterr().err.count("is not signed") == 3
    assert not target.exists()
    assert srmill("sign", bundle, "--key", private) == 0
    assert commands(*asked) == [0, 0, 0]
    assert "the signature is right" in capsys.readouterr().out
    assert target.exists()
    # It goes along.
    assert srmill("verify", tmp_path / "phone", *asked) == 0
    capsys.readouterr()
    assert commands("--public-key", other) == [2, 2, 2]
    assert capsys.readouterr().err.count("was not signed with this key, or was changed") == 3
    # Nobody asks: the signature does not matter.
    assert commands() == [0, 0, 0]
    (bundle / "bundle.json").write_text((bundle / "bundle.json").read_text() + "\n")
    assert commands() == [0, 0, 0]
    capsys.readouterr()
    assert commands(*asked) == [2, 2, 2]
    assert capsys.readouterr().err.count("was changed since") == 3


def test_keys_come_from_the_environment_too(
    bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    private, public = make_keys(tmp_path)
    assert srmill("sign", bundle) == 2
    assert "give --key or set $SRMILL_SIGNING_KEY" in capsys.readouterr().err
    monkeypatch.setenv("SRMILL_SIGNING_KEY", private.read_text())
    assert srmill("sign", bundle) == 0
    assert srmill("verify", bundle, "--require-signature") == 2
    assert "give --public-key or set $SRMILL_PUBLIC_KEY" in capsys.readouterr().err
    monkeypatch.setenv("SRMILL_PUBLIC_KEY", public.read_text())
    assert srmill("verify", bundle, "--require-signature") == 0


def test_what_is_no_key_is_one_sentence(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    private, public = make_keys(tmp_path)
    assert srmill("sign", bundle, "--key", private) == 0
    (tmp_path / "no.pem").write_text("no key")
    (tmp_path / "large.pem").write_bytes(b"0" * 20000)
    for command in (
        ("sign", bundle, "--key", tmp_path / "no.pem"),
        ("sign", bundle, "--key", public),
        ("sign", bundle, "--key", tmp_path / "large.pem"),
        ("sign", bundle, "--key", tmp_path / "absent.pem"),
        ("sign", bundle, "--key", tmp_path),
        ("verify", bundle, "--public-key", private),
        ("verify", bundle, "--public-key", tmp_path / "no.pem"),
    ):
        capsys.readouterr()
        assert srmill(*command) == 2, command
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
    # A key that is none leaves the signature that was there.
    assert srmill("verify", bundle, "--public-key", public) == 0


def test_openssl_agrees(bundle: Path, tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    private, public = make_keys(tmp_path)
    assert srmill("sign", bundle, "--key", private) == 0
    verify = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", public, "-rawin"]
    signed = ["-in", bundle / "bundle.json", "-sigfile", bundle / SIGNATURE]
    assert subprocess.run([*verify, *signed], capture_output=True, check=False).returncode == 0


def test_nothing_of_an_unsigned_bundle_is_used_before_it_is_refused(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, public = make_keys(tmp_path)
    used: list[object] = []
    monkeypatch.setattr(Bundle, "config", used.append)
    monkeypatch.setattr(Bundle, "network", used.append)
    monkeypatch.setattr(bundle_module, "file_sha256", used.append)
    asked = ("--require-signature", "--public-key", public)
    source = photo(tmp_path / "a.png")
    for command in (
        ("upscale", source, tmp_path / "b.png", "--model", bundle),
        ("fetch", bundle, tmp_path / "phone"),
        ("verify", bundle),
    ):
        assert srmill(*command, *asked) == 2
        assert not used


def test_a_signature_of_any_length_is_not_read(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, public = make_keys(tmp_path)
    (bundle / SIGNATURE).touch()
    os.truncate(bundle / SIGNATURE, 2**40)
    assert srmill("verify", bundle, "--public-key", public) == 2
    assert "was not signed with this key" in capsys.readouterr().err


def test_a_name_forges_no_line(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = load_bundle(bundle)
    seal(bundle, replace(known.facts, name="a\x1b]0;b\x07\nc: the signature is right."))
    assert srmill("verify", bundle) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("a\\x1b]0;b\\x07 c: the signature is right.: all ")
