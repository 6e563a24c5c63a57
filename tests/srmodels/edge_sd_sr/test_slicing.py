"""A diffusers UNet in ours: the same function at the same widths, the right channels at fewer."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from srmodels.edge_sd_sr.config import UNetConfig
from srmodels.edge_sd_sr.slicing import slice_unet
from srmodels.edge_sd_sr.unet import UNet

LATENT, WIDTHS = 4, (16, 32, 64)


def diffusers_unet(*, linear: bool = False) -> UNet2DConditionModel:
    """Three levels of two blocks, attention on the upper two, as in Stable Diffusion."""
    torch.manual_seed(0)
    return UNet2DConditionModel(
        block_out_channels=WIDTHS,
        down_block_types=("CrossAttnDownBlock2D",) * 2 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 2,
        layers_per_block=2,
        cross_attention_dim=8,
        attention_head_dim=tuple(width // 8 for width in WIDTHS),
        norm_num_groups=4,
        use_linear_projection=linear,
    ).eval()


def our_unet(
    widths: tuple[int, ...] = WIDTHS, num_layers: int = 2, *, mid_block: bool = True
) -> UNet:
    torch.manual_seed(1)
    config = UNetConfig(
        channels=list(widths),
        num_layers=num_layers,
        attention_levels=[0, 1],
        head_channels=8,
        mid_block=mid_block,
        num_groups=4,
    )
    unet = UNet(config, 2 * LATENT, LATENT).eval()
    torch.nn.init.normal_(unet.conv_out.weight)
    return unet


@pytest.mark.parametrize("linear", [False, True], ids=["1x1 convolutions", "linear"])
def test_with_equal_widths_it_is_the_same_function(linear: bool) -> None:
    theirs, ours = diffusers_unet(linear=linear), our_unet()
    with torch.no_grad():
        # Without text there is nothing to attend to: its cross-attention must say nothing.
        for name, parameter in theirs.named_parameters():
            if "attn2.to_out" in name:
                parameter.zero_()
        assert slice_unet(ours, theirs.state_dict()) == []
        z_t, z_l, text = torch.randn(2, LATENT, 8, 8), torch.randn(2, LATENT, 8, 8), torch.zeros
        timesteps = torch.tensor([3, 700])
        expected = theirs(z_t, timesteps, text(2, 1, 8)).sample
        assert torch.allclose(ours(torch.cat([z_t, z_l], 1), timesteps), expected, atol=1e-5)


def test_fewer_channels_are_those_that_mean_the_same() -> None:
    theirs = diffusers_unet().state_dict()
    ours = our_unet((8, 16, 32), num_layers=1)
    assert slice_unet(ours, theirs) == []
    own = ours.state_dict()

    def same(name: str, expected: Tensor) -> None:
        assert torch.equal(own[name], expected), name

    name = "down_blocks.1.resnets.0.conv2.weight"
    same(name, theirs[name][:16, :16])
    # Our second and last block on the way up is their third: both see the level below.
    wide = theirs["up_blocks.1.resnets.2.conv1.weight"]  # 32 + 16 → 32 channels
    same("up_blocks.1.resnets.1.conv1.weight", torch.cat([wide[:16, :16], wide[:16, 32:40]], 1))
    norm = theirs["up_blocks.0.resnets.0.norm1.weight"]  # 64 + 64 channels
    same("up_blocks.0.resnets.0.norm1.weight", torch.cat([norm[:32], norm[64:96]]))
    gate = theirs["down_blocks.1.attentions.0.transformer_blocks.0.ff.net.0.proj.weight"]
    same(
        "down_blocks.1.attentions.0.transformer_blocks.0.ff.net.0.proj.weight",
        torch.cat([gate[:64, :16], gate[128:192, :16]]),
    )
    # Half the sinusoids, every other frequency: cosines, then sines.
    embedding = theirs["time_embedding.linear_1.weight"][:32]
    same("time_embedding.linear_1.weight", embedding[:, [0, 2, 4, 6, 8, 10, 12, 14]])
    conv_in = theirs["conv_in.weight"][:8]
    same("conv_in.weight", torch.cat([conv_in, torch.zeros_like(conv_in)], 1))
    same("up_blocks.0.resample.weight", theirs["up_blocks.0.upsamplers.0.conv.weight"][:32, :32])


def test_a_network_of_fewer_levels_takes_the_upper_ones() -> None:
    theirs = diffusers_unet().state_dict()
    ours = our_unet((16, 32), mid_block=False)
    assert slice_unet(ours, theirs) == []
    own = ours.state_dict()
    assert torch.equal(
        own["up_blocks.1.resnets.0.conv2.weight"], theirs["up_blocks.2.resnets.0.conv2.weight"]
    )


def test_what_they_lack_stays_as_it_was() -> None:
    theirs = {n: w for n, w in diffusers_unet().state_dict().items() if "attentions.1" not in n}
    ours = our_unet()
    before = {name: weight.clone() for name, weight in ours.state_dict().items()}
    new = slice_unet(ours, theirs)
    assert new
    assert all("attentions.1" in name for name in new)
    assert all(torch.equal(ours.state_dict()[name], before[name]) for name in new)


@pytest.mark.parametrize(
    ("widths", "num_layers", "message"),
    [
        ((16, 40, 64), 2, "smaller than networks.unet"),
        ((16, 32, 64, 64), 2, "smaller than networks.unet"),
        ((16, 32, 64), 3, "smaller than networks.unet"),
    ],
)
def test_a_smaller_one_is_refused(widths: tuple[int, ...], num_layers: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        slice_unet(our_unet(widths, num_layers), diffusers_unet().state_dict())


def test_other_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="no UNet in diffusers' layout"):
        slice_unet(our_unet(), {"layers.0.weight": torch.zeros(1)})
    other = diffusers_unet().state_dict() | {"conv_out.weight": torch.zeros(8, 16, 3, 3)}
    with pytest.raises(ValueError, match=r"conv_out\.weight is 8x16x3x3 there"):
        slice_unet(our_unet(), other)
