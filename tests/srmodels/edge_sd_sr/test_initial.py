"""First weights from models in diffusers' layout: what loads computes what it did there."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file, save_file

from srmodels.edge_sd_sr.config import DecoderConfig, EdgeSDSRConfig, HREncoderConfig, UNetConfig
from srmodels.edge_sd_sr.initial import EdgeSDSRInitialWeights
from srmodels.edge_sd_sr.network import EdgeSDSR
from srmodels.metrics import psnr_y
from srmodels.upscale import to_pixels, to_tensor
from tests.conftest import data_directory, needs_weights

X = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LR = torch.zeros(1, 3, 8, 8)
BLOCKS = [1, 1, 1, 1]


def build(**settings: object) -> EdgeSDSR:
    torch.manual_seed(1)
    unet = UNetConfig(channels=[8, 16], attention_levels=[1], head_channels=8, num_groups=4)
    return EdgeSDSR(EdgeSDSRConfig(unet=unet, **settings)).eval()  # type: ignore[arg-type]


def tiny_network(width: int = 8) -> EdgeSDSR:
    widths = [width] * 4
    return build(
        hr_encoder=HREncoderConfig(channels=widths, num_blocks=BLOCKS),
        decoder=DecoderConfig(channels=widths, num_blocks=BLOCKS),
    )


def load(network: EdgeSDSR, **sources: str) -> list[str]:
    initial = EdgeSDSRInitialWeights(**sources)
    return initial.load(network, initial.files())


@pytest.fixture
def tiny(tmp_path: Path) -> AutoencoderTiny:
    torch.manual_seed(0)
    model = AutoencoderTiny(
        encoder_block_out_channels=(8,) * 4,
        decoder_block_out_channels=(8,) * 4,
        num_encoder_blocks=tuple(BLOCKS),
        num_decoder_blocks=tuple(BLOCKS),
    ).eval()
    model.save_pretrained(tmp_path / "tiny")
    return model


@torch.no_grad()
def test_a_tiny_autoencoder_codes_as_in_diffusers(tmp_path: Path, tiny: AutoencoderTiny) -> None:
    network, source = tiny_network(), str(tmp_path / "tiny")
    lines = load(network, vae=source, decoder=source)
    assert lines[0].startswith("init.vae: ")
    assert lines[1].startswith("init.decoder: ")
    z = network.encode(X, LR)
    assert torch.allclose(z, tiny.encode(X * 2 - 1).latents, atol=1e-5)
    assert torch.allclose(network.decode(z, LR) * 2 - 1, tiny.decode(z).sample, atol=1e-5)


@torch.no_grad()
def test_stable_diffusions_encoder_codes_as_in_diffusers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = AutoencoderKL(
        block_out_channels=(8, 8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=4,
        layers_per_block=1,
        latent_channels=4,
    ).eval()
    model.save_pretrained(tmp_path / "checkpoint" / "vae")
    encoder = HREncoderConfig(
        kind="kl", channels=[8, 8, 16, 16], num_blocks=[1, 1, 1, 1], num_groups=4
    )
    network = build(hr_encoder=encoder)
    load(network, vae=str(tmp_path / "checkpoint"))
    expected = 0.18215 * model.encode(X * 2 - 1).latent_dist.mean
    assert torch.allclose(network.encode(X, LR), expected, atol=1e-6)

    # As they were saved in 2022: attention had other names, and its layers were convolutions.
    path = tmp_path / "checkpoint" / "vae" / "diffusion_pytorch_model.safetensors"
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    old = {}
    for name, weight in load_file(path).items():
        found = [n for n in names if f".attentions.0.{n}." in name]
        conv = bool(found) and weight.ndim == 2
        was = name.replace(found[0], names[found[0]]) if found else name
        old[was] = weight[:, :, None, None].contiguous() if conv else weight
    assert old.keys() != load_file(path).keys()
    save_file(old, tmp_path / "old.safetensors")
    again = build(hr_encoder=encoder)
    load(again, vae=str(tmp_path / "old.safetensors"))
    assert torch.equal(again.encode(X, LR), network.encode(X, LR))


def test_the_teacher_starts_from_the_same_unet(tmp_path: Path) -> None:
    UNet2DConditionModel(
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=8,
        norm_num_groups=4,
    ).save_pretrained(tmp_path / "unet")
    network = build(teacher=True)
    assert network.teacher is not None
    lines = load(network, unet=str(tmp_path))
    own, theirs = network.unet.state_dict(), network.teacher.unet.state_dict()
    assert all(torch.equal(own[name], theirs[name]) for name in own)
    total = len(own)
    assert f"{total} of {total} tensors" in lines[0]


def test_what_does_not_fit_is_one_sentence(tmp_path: Path, tiny: AutoencoderTiny) -> None:
    source = str(tmp_path / "tiny")
    with pytest.raises(ValueError, match=r"init.vae: .* differ from networks.hr_encoder, for"):
        load(tiny_network(width=16), vae=source)
    with pytest.raises(ValueError, match=r"init.unet: .* no UNet in diffusers' layout"):
        load(tiny_network(), unet=str(tmp_path / "tiny" / "diffusion_pytorch_model.safetensors"))
    with pytest.raises(ValueError, match=r"init.decoder: there is no 'absent.safetensors'"):
        load(tiny_network(), decoder="absent.safetensors")


@torch.no_grad()
def test_taef2_reconstructs_photos() -> None:
    needs_weights()
    network = build(
        latent_channels=32,
        hr_encoder=HREncoderConfig(pooled=True),
        decoder=DecoderConfig(channels=[64] * 4, num_blocks=[3, 3, 3, 1], pooled=True),
    )
    folder = os.environ["SRMILL_WEIGHTS"]
    load(
        network,
        vae=f"{folder}/taef2_encoder.safetensors",
        decoder=f"{folder}/taef2_decoder.safetensors",
    )
    path = data_directory() / "benchmarks" / "BSD100" / "image_SRF_4" / "img_001_SRF_4_HR.png"
    photo = np.asarray(Image.open(path).convert("RGB"))[:320, :320]
    x = to_tensor(photo)
    score = psnr_y(to_pixels(network.decode(network.encode(x, x), x)), photo, 4)
    assert score > 25  # what its makers' own code gives on photos: 25 to 36 dB
