"""Weights in diffusers' layout: in a file, in a folder, on a (local) hub, and nowhere."""

import hashlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save, save_file

from srmodels.weights import FILE, find_weights, read_weights

WEIGHTS = {"weight": torch.arange(3.0)}


class Hub(BaseHTTPRequestHandler):
    """One repository, OWNER/NAME, with weights in its folder `vae` alone."""

    files: ClassVar = {f"/OWNER/NAME/resolve/main/vae/{FILE}": save(WEIGHTS)}
    asked: ClassVar[list[str]] = []

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        data = self._answer()
        self.wfile.write(data)

    def _answer(self) -> bytes:
        self.asked.append(f"{self.command} {self.path}")
        data = self.files.get(self.path)
        self.send_response(404 if data is None else 200)
        if data is None:
            known = self.path.startswith("/OWNER/NAME/")
            self.send_header("X-Error-Code", "EntryNotFound" if known else "RepoNotFound")
        else:
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("Content-Length", str(len(data or b"")))
        self.end_headers()
        return data or b""

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The requests that a local hub received."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    Hub.asked.clear()
    yield Hub.asked
    server.shutdown()


def test_a_file_or_a_folder_is_found(tmp_path: Path) -> None:
    (tmp_path / "vae").mkdir()
    save_file(WEIGHTS, tmp_path / "vae" / FILE)
    assert find_weights(str(tmp_path / "vae"), "vae") == tmp_path / "vae" / FILE
    assert find_weights(str(tmp_path), "vae") == tmp_path / "vae" / FILE
    assert find_weights(str(tmp_path / "vae" / FILE), "unet") == tmp_path / "vae" / FILE
    with pytest.raises(ValueError, match=f"holds no {FILE}, nor does its subfolder unet"):
        find_weights(str(tmp_path), "unet")


def test_weights_come_in_fp32(tmp_path: Path) -> None:
    save_file({"weight": WEIGHTS["weight"].half()}, tmp_path / "half.safetensors")
    assert torch.equal(read_weights(tmp_path / "half.safetensors")["weight"], WEIGHTS["weight"])
    (tmp_path / "half.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match=r"cannot be read .*: get it again"):
        read_weights(tmp_path / "half.safetensors")


def test_a_repository_is_downloaded_once(hub: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    path = find_weights("OWNER/NAME", "vae")
    assert torch.equal(read_weights(path)["weight"], WEIGHTS["weight"])
    assert find_weights("OWNER/NAME", "vae") == path
    assert sum(line.startswith("GET") and FILE in line for line in hub) == 1
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert find_weights("OWNER/NAME", "vae") == path


@pytest.mark.usefixtures("hub")
def test_what_the_hub_does_not_have_is_one_sentence() -> None:
    with pytest.raises(ValueError, match=f"OWNER/NAME on the hub holds no {FILE}"):
        find_weights("OWNER/NAME", "unet")
    with pytest.raises(ValueError, match="OWNER/OTHER cannot be had from the Hugging Face hub"):
        find_weights("OWNER/OTHER", "vae")


def test_offline_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match="run this once with access to it, or name a local folder"):
        find_weights("OWNER/NAME", "vae")


@pytest.mark.parametrize("source", ["absent", "a/b/c", "./a/b", "/no/where", "weights.safetensors"])
def test_what_is_nowhere_is_refused(source: str) -> None:
    with pytest.raises(
        ValueError, match=r"give a \.safetensors file, a folder in diffusers' layout"
    ):
        find_weights(source, "vae")
