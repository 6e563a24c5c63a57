"""Weights from a folder, from a (local) server, and from nowhere."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from srmodels import weights as module
from srmodels.weights import Source, is_at_hand, pretrained
from tests.support.http_server import WebFile, WebServer

WEIGHTS = {"features.0.weight": torch.rand(2, 3), "classifier.0.weight": torch.rand(4)}


@pytest.fixture(autouse=True)
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is at hand: no folder, no cache."""
    monkeypatch.delenv("SRMILL_WEIGHTS", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))


def publish(
    server: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, right_hash: bool = True
) -> WebFile:
    torch.save(WEIGHTS, tmp_path / "weights.pth")
    data = (tmp_path / "weights.pth").read_bytes()
    told = hashlib.sha256(data).hexdigest()[:8] if right_hash else "00000000"
    file = WebFile(data)
    url = server.add(f"weights-{told}.pth", file)
    monkeypatch.setitem(module.SOURCES, "vgg16_features", Source(url, "features.", told))
    return file


def test_a_folder_comes_first_and_gives_fp32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = WEIGHTS["features.0.weight"].half()
    save_file({"features.0.weight": half}, tmp_path / "vgg16_features.safetensors")
    monkeypatch.setenv("SRMILL_WEIGHTS", str(tmp_path))
    found = pretrained("vgg16_features")
    assert found.keys() == {"features.0.weight"}
    assert torch.equal(found["features.0.weight"], half.float())


def test_elsewhere_they_come_from_their_home_once(
    web_server: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = publish(web_server, tmp_path, monkeypatch)
    # A folder without them is no reason to give up.
    monkeypatch.setenv("SRMILL_WEIGHTS", str(tmp_path))
    for _ in range(2):
        found = pretrained("vgg16_features")
        assert found.keys() == {"features.0.weight"}
        assert torch.equal(found["features.0.weight"], WEIGHTS["features.0.weight"])
    assert len(file.sent) == 1


def test_what_is_not_what_was_published_is_refused(
    web_server: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(web_server, tmp_path, monkeypatch, right_hash=False)
    with pytest.raises(ValueError, match=r"cannot be had from .*invalid hash value"):
        pretrained("vgg16_features")


def test_offline_the_error_says_where_to_put_them(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source("http://127.0.0.1:9/vgg.pth")
    monkeypatch.setitem(module.SOURCES, "lpips_vgg_heads", source)
    with pytest.raises(
        ValueError,
        match=r"'lpips_vgg_heads' cannot be had from http://127.* put lpips_vgg_heads.safetensors "
        r"into a folder and name it in \$SRMILL_WEIGHTS",
    ):
        pretrained("lpips_vgg_heads")


def test_a_folder_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SRMILL_WEIGHTS", "/no/such/folder")
    with pytest.raises(ValueError, match=r"\$SRMILL_WEIGHTS is '/no/such/folder', which is no fo"):
        pretrained("vgg16_features")


def test_what_is_no_state_dict_is_refused(
    web_server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = web_server.add("vgg.pth", WebFile(b"<html>sorry</html>"))
    monkeypatch.setitem(module.SOURCES, "lpips_vgg_heads", Source(url))
    for _ in range(2):
        with pytest.raises(ValueError, match=r"'lpips_vgg_heads' cannot be had from .*cannot be r"):
            pretrained("lpips_vgg_heads")
    assert not is_at_hand("lpips_vgg_heads")


def test_a_damaged_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vgg16_features.safetensors").write_bytes(b"half")
    monkeypatch.setenv("SRMILL_WEIGHTS", str(tmp_path))
    with pytest.raises(ValueError, match=r"vgg16_features.safetensors cannot be read .*get it aga"):
        pretrained("vgg16_features")


def test_arrays_keep_their_precision_and_come_from_a_folder_or_from_their_home(
    web_server: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mean = np.random.default_rng(0).random((1, 36))
    np.savez(tmp_path / "niqe_pristine.npz", mu=mean, window=mean.astype(np.float16))
    url = web_server.add("pris.npz", WebFile((tmp_path / "niqe_pristine.npz").read_bytes()))
    monkeypatch.setitem(module.SOURCES, "niqe_pristine", Source(url, local=".npz"))
    assert not is_at_hand("niqe_pristine")
    for _ in range(2):
        found = pretrained("niqe_pristine")
        assert torch.equal(found["mu"], torch.from_numpy(mean))
        assert found["window"].dtype == torch.float32
        assert is_at_hand("niqe_pristine")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "elsewhere"))
    assert not is_at_hand("niqe_pristine")
    monkeypatch.setenv("SRMILL_WEIGHTS", str(tmp_path))
    assert is_at_hand("niqe_pristine")
    assert torch.equal(pretrained("niqe_pristine")["mu"], torch.from_numpy(mean))
    (tmp_path / "niqe_pristine.npz").write_bytes(b"PK half")
    with pytest.raises(ValueError, match=r"niqe_pristine.npz cannot be read .*get it again"):
        pretrained("niqe_pristine")
