from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipelines.config import load_config, to_yaml
from pipelines.errors import UserError
from pipelines.registry.bundle import Bundle, load_bundle, seal
from srmodels.system import load_system
from tests.conftest import SMALL


def make_bundle(directory: Path, recipe: Path = SMALL, psnr: float = 30.0) -> Bundle:
    """A small bundle with untrained weights and the metrics it is told to have."""
    config = load_config([f"recipe={recipe}"])
    torch.manual_seed(0)
    network = load_system(config.system).build(config.networks)
    directory.mkdir(parents=True, exist_ok=True)
    weights = network.inference_state_dict()
    save_file({n: w.contiguous() for n, w in weights.items()}, directory / "model.safetensors")
    (directory / "config.yaml").write_text(to_yaml(config))
    metrics = {
        "protocol": "p", "degradation": "bicubic", "manifest": "m", "num_images": 2,
        "model": {"psnr_y_crop4": psnr, "ssim_y_crop4": 0.9},
        "bicubic": {"psnr_y_crop4": 29.0, "ssim_y_crop4": 0.8},
    }  # fmt: skip
    facts = {"recipe": "small", "scale": 4, "metrics": metrics, "manifest": "m", "git_commit": "c"}
    seal(directory, facts)
    return load_bundle(directory)


def test_a_bundle_loads_with_its_network(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    assert bundle.config().run.name == "small"
    assert bundle.network()(torch.rand(1, 3, 8, 8)).shape == (1, 3, 32, 32)
    assert set(bundle.facts["files"]) == {"model.safetensors", "config.yaml"}


def test_any_change_is_noticed(tmp_path: Path) -> None:
    make_bundle(tmp_path)
    weights = tmp_path / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(UserError, match=r"model\.safetensors is missing or damaged"):
        load_bundle(tmp_path)
    weights.unlink()
    with pytest.raises(UserError, match=r"model\.safetensors is missing or damaged"):
        load_bundle(tmp_path)


def test_files_that_are_not_listed_are_refused(tmp_path: Path) -> None:
    make_bundle(tmp_path)
    (tmp_path / "extra.pkl").write_bytes(b"x")
    with pytest.raises(UserError, match=r"files it does not list: extra\.pkl"):
        load_bundle(tmp_path)


def test_no_bundle_a_damaged_one_and_a_newer_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no bundle"):
        load_bundle(tmp_path)
    (tmp_path / "bundle.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        load_bundle(tmp_path)
    (tmp_path / "bundle.json").write_text('{"schema_version": 99, "files": {}}')
    with pytest.raises(UserError, match="has schema version 99, this SRForge reads 1"):
        load_bundle(tmp_path)
