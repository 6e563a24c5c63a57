"""spandrel's architectures: published checkpoints that are measured, and networks to train."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.config.load import load_config
from pipelines.config.reference import ModelReference
from pipelines.config.schema import Config
from pipelines.errors import UserError
from pipelines.evaluation.methods import open_method
from pipelines.models.cost import network_cost
from pipelines.training.cost import training_cost
from pipelines.training.worker import prepare_deepspeed
from srmodels.edge.onnx import OnnxFp32
from srmodels.edge.target import ExportSettings, check_parity
from srmodels.system import load_system
from tests.conftest import SMALL

pytest.importorskip("spandrel")


def test_a_checkpoint_of_another_architecture(tmp_path: Path) -> None:
    from spandrel.architectures.ESRGAN.__arch.RRDB import RRDBNet

    torch.manual_seed(0)
    network = RRDBNet(num_filters=8, num_blocks=1, scale=4).eval()
    torch.save(network.state_dict(), tmp_path / "tiny.pth")
    method = open_method(
        ModelReference.parse(f"spandrel:{tmp_path / 'tiny.pth'}"), load_config([f"recipe={SMALL}"])
    )
    assert (method.scale, method.title) == (4, "ESRGAN (tiny)")
    assert method.parameters == sum(p.numel() for p in network.parameters())
    lr = np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)
    with torch.inference_mode():
        expected = network(torch.from_numpy(lr / np.float32(255)).permute(2, 0, 1)[None])
    found = method(lr).astype(float)
    assert found.shape == (80, 96, 3)
    assert np.abs(found - 255 * expected[0].clamp(0, 1).permute(1, 2, 0).numpy()).max() <= 0.51


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "no.pth").write_bytes(b"nothing")
    with pytest.raises(UserError, match="spandrel cannot read"):
        open_method(
            ModelReference.parse(f"spandrel:{tmp_path / 'no.pth'}"),
            load_config([f"recipe={SMALL}"]),
        )


def test_a_checkpoint_for_other_images(tmp_path: Path) -> None:
    from spandrel.architectures.ESRGAN.__arch.RRDB import RRDBNet

    network = RRDBNet(in_nc=1, out_nc=1, num_filters=8, num_blocks=1, scale=4)
    torch.save(network.state_dict(), tmp_path / "grey.pth")
    with pytest.raises(UserError, match=r"grey\.pth \(ESRGAN\) does not enlarge RGB images"):
        open_method(
            ModelReference.parse(f"spandrel:{tmp_path / 'grey.pth'}"),
            load_config([f"recipe={SMALL}"]),
        )


#: Small ones of several kinds: reparameterised, with a size to be a multiple of, with attention.
TRAINED = {
    "SPAN": "{num_in_ch: 3, num_out_ch: 3, feature_channels: 8}",
    "SAFMN": "{dim: 8, n_blocks: 1}",
    "SwinIR": (
        "{embed_dim: 8, depths: [2], num_heads: [2], window_size: 8, upsampler: pixelshuffledirect}"
    ),
    "RealPLKSR": "{dim: 8, n_blocks: 1}",
}


def recipe(folder: Path, name: str, options: str, *more: str) -> Config:
    path = folder / "mine.yaml"
    path.write_text(
        "system: spandrel\n"
        f"networks: {{architecture: {name}, options: {options}}}\n"
        "shard: {tile: 128, val_tile: 128, val_fraction: 0.3}\n"
        "train: {workers: 0, batch_size: 2, crop: 64, steps: 2, checkpoint_every: 2}\n"
        "stages: {pixel: {}}\n"
    )
    return load_config([f"recipe={path}", *more])


@pytest.mark.parametrize("name", TRAINED)
def test_an_architecture_trains_from_scratch_by_the_shared_stage(name: str, tmp_path: Path) -> None:
    config = recipe(tmp_path, name, TRAINED[name])
    assert training_cost(config, "pixel").flops > 0
    assert network_cost(config.system, config.networks, config.export.tile).total_parameters > 0
    prepare_deepspeed(torch.device("cpu"))
    from pipelines.training.build import build_stage

    stage = build_stage(config, "pixel")
    assert stage.network.size_multiple == (8 if name == "SAFMN" else 1)
    x_h = torch.rand(2, 3, 64, 64)
    stage(x_h[..., ::4, ::4].contiguous(), x_h, torch.arange(2))["loss"].backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in stage.parameters())
    enlarged = stage.network.eval()(torch.rand(1, 3, 16, 24))
    assert enlarged.shape == (1, 3, 64, 96)
    assert 0 <= enlarged.min() <= enlarged.max() <= 1


def test_a_published_checkpoint_is_a_start(tmp_path: Path) -> None:
    config = recipe(tmp_path, "SPAN", TRAINED["SPAN"], f"init.checkpoint={tmp_path / 'a.pth'}")
    torch.manual_seed(1)
    published, network = (load_system("spandrel").build(config.networks) for _ in range(2))
    torch.save(published.body.state_dict(), tmp_path / "a.pth")
    lines = config.init.load(network, config.init.files())
    assert lines == [f"init.checkpoint: 204 tensors of {tmp_path / 'a.pth'}"]
    expected = published.body.state_dict()
    assert all(torch.equal(w, expected[n]) for n, w in network.body.state_dict().items())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "SPAN", "{num_in_ch: 3, num_out_ch: 3, feature_channels: 16}",
            "than the recipe's SPAN: set networks.options.feature_channels=8.",
        ),
        ("SAFMN", "{dim: 8}", "than the recipe's SAFMN: set networks.architecture=SPAN, networks."),
    ],
)  # fmt: skip
def test_a_checkpoint_of_another_network_says_which(
    name: str, options: str, message: str, tmp_path: Path
) -> None:
    published = load_system("spandrel").build(recipe(tmp_path, "SPAN", TRAINED["SPAN"]).networks)
    torch.save(published.body.state_dict(), tmp_path / "a.pth")
    config = recipe(tmp_path, name, options, f"init.checkpoint={tmp_path / 'a.pth'}")
    network = load_system("spandrel").build(config.networks)
    with pytest.raises(ValueError, match=r"^init.checkpoint: .* is of another network") as error:
        config.init.load(network, config.init.files())
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("SPANN", "{}", "'SPANN', which spandrel has not: use one of ATD, "),
        ("SPAN", "{num_in_ch: 3}", r"cannot be made of .*'num_out_ch'\): its arguments are num_in"),
        ("SPAN", "{upscale: 2}", "networks.options.upscale is 2 and networks.scale is 4"),
        ("NAFNet", "{}", "makes 3 channels of 3, 1 times as large, not 3 of 3, 4 times"),
    ],
)
def test_what_cannot_be_built_is_told(
    name: str, options: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        recipe(tmp_path, name, options)


def test_spans_branches_are_fused_for_good_and_its_artifact_gives_the_same(tmp_path: Path) -> None:
    config, path = recipe(tmp_path, "SPAN", TRAINED["SPAN"]), tmp_path / "m.onnx"
    network = load_system("spandrel").build(config.networks).eval()
    images = [torch.rand(1, 3, 16, 16) for _ in range(2)]
    with torch.inference_mode():
        before = network(images[0])
    size = sum(p.numel() for p in network.parameters())
    network.fuse()
    assert network.fused
    assert sum(p.numel() for p in network.parameters()) < size / 2
    with torch.inference_mode():
        assert torch.equal(network(images[0]), before)
    OnnxFp32().export(network, path, ExportSettings(16))
    assert check_parity(network, OnnxFp32().load(path), images).max_error < 1e-4
