"""The latent UNet: residual blocks with a timestep, self-attention where the recipe asks for it.

Parameter names follow diffusers (`down_blocks.0.resnets.0.conv1.weight`, …), so that weights of a
Stable Diffusion UNet can be sliced in by name.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from srmodels.edge_sd_sr.config import UNetConfig


def timestep_embedding(timesteps: Tensor, channels: int) -> Tensor:
    """Returns the sinusoidal embedding `[B, channels]` of `[B]` timesteps (DDPM; cosines first, as
    in SD)."""
    half = channels // 2
    exponent = torch.arange(half, device=timesteps.device, dtype=torch.float32) / half
    angles = timesteps.float()[:, None] * torch.exp(-math.log(10000.0) * exponent)[None]
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class TimestepEmbedding(nn.Module):
    """Two linear layers over the sinusoidal embedding."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(in_channels, channels)
        self.linear_2 = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear_2(F.silu(self.linear_1(x)))
        return y


class ResnetBlock(nn.Module):
    """Norm–SiLU–conv, plus the timestep, norm–SiLU–conv, plus the shortcut."""

    def __init__(self, in_channels: int, channels: int, embedding: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, in_channels, eps=1e-5)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.time_emb_proj = nn.Linear(embedding, channels)
        self.norm2 = nn.GroupNorm(groups, channels, eps=1e-5)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_shortcut = (
            nn.Conv2d(in_channels, channels, 1) if in_channels != channels else None
        )

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        y = y + self.time_emb_proj(F.silu(embedding))[:, :, None, None]
        y = self.conv2(F.silu(self.norm2(y)))
        shortcut = x if self.conv_shortcut is None else self.conv_shortcut(x)
        output: Tensor = shortcut + y
        return output


class SelfAttention(nn.Module):
    """Multi-head self-attention over tokens `[B, N, C]`; the head width comes from the tensor's
    shape, so that the block survives pruning."""

    def __init__(self, channels: int, head_channels: int) -> None:
        super().__init__()
        self.num_heads = channels // head_channels
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(channels, channels, bias=False)
        self.to_v = nn.Linear(channels, channels, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = (
            layer(tokens).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for layer in (self.to_q, self.to_k, self.to_v)
        )
        mixed = F.scaled_dot_product_attention(query, key, value)
        y: Tensor = self.to_out[0](mixed.transpose(1, 2).flatten(2))
        return y


class GEGLU(nn.Module):
    """Gated linear unit with GELU (Shazeer, arXiv 2002.05202)."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.proj = nn.Linear(channels, 2 * hidden)

    def forward(self, tokens: Tensor) -> Tensor:
        value, gate = self.proj(tokens).chunk(2, dim=-1)
        y: Tensor = value * F.gelu(gate)
        return y


class FeedForward(nn.Module):
    """GEGLU, then back to the token's width."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        # Index 1 is diffusers' dropout: kept so that the names of the weights agree.
        self.net = nn.Sequential(
            GEGLU(channels, 4 * channels), nn.Identity(), nn.Linear(4 * channels, channels)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        y: Tensor = self.net(tokens)
        return y


class TransformerBlock(nn.Module):
    """Self-attention and feed-forward. `norm2`, cross-attention's, is missing on purpose."""

    def __init__(self, channels: int, head_channels: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = SelfAttention(channels, head_channels)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attn1(self.norm1(tokens))
        y: Tensor = tokens + self.ff(self.norm3(tokens))
        return y


class SpatialTransformer(nn.Module):
    """Stable Diffusion's attention block over a feature map, without text."""

    def __init__(self, channels: int, head_channels: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.proj_in = nn.Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(channels, head_channels)])
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        _, _, height, width = x.shape
        tokens = self.proj_in(self.norm(x)).flatten(2).transpose(1, 2)
        for block in self.transformer_blocks:
            tokens = block(tokens)
        y: Tensor = self.proj_out(tokens.transpose(1, 2).unflatten(2, (height, width)))
        return x + y


class Level(nn.Module):
    """One resolution on the way down or up: resnets, each followed by attention if there is any."""

    def __init__(
        self,
        in_channels: list[int],
        channels: int,
        *,
        config: UNetConfig,
        attention: bool,
        resample: nn.Module | None,
    ) -> None:
        super().__init__()
        embedding = 4 * config.channels[0]
        self.resnets = nn.ModuleList(
            ResnetBlock(c, channels, embedding, config.num_groups) for c in in_channels
        )
        self.attentions = nn.ModuleList(
            SpatialTransformer(channels, config.head_channels, config.num_groups)
            for _ in in_channels
            if attention
        )
        self.resample = resample

    def layer(self, index: int, x: Tensor, embedding: Tensor) -> Tensor:
        x = self.resnets[index](x, embedding)
        return self.attentions[index](x) if len(self.attentions) else x


class UNet(nn.Module):
    """`[B, in_channels, h, w]`, timesteps `[B]` → `[B, out_channels, h, w]`.

    `h` and `w` must be multiples of 2 ** (number of levels − 1).
    """

    def __init__(self, config: UNetConfig, in_channels: int, out_channels: int) -> None:
        super().__init__()
        widths = config.channels
        embedding = 4 * widths[0]
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        self.time_embedding = TimestepEmbedding(widths[0], embedding)
        self.down_blocks = nn.ModuleList()
        skips = [widths[0]]
        for level, channels in enumerate(widths):
            inputs = [widths[max(level - 1, 0)]] + [channels] * (config.num_layers - 1)
            resample = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
            self.down_blocks.append(
                Level(
                    inputs,
                    channels,
                    config=config,
                    attention=level in config.attention_levels,
                    resample=resample if level < last else None,
                )
            )
            skips += [channels] * (config.num_layers + (level < last))
        self.mid_block = (
            nn.ModuleList(
                [
                    ResnetBlock(widths[-1], widths[-1], embedding, config.num_groups),
                    SpatialTransformer(widths[-1], config.head_channels, config.num_groups),
                    ResnetBlock(widths[-1], widths[-1], embedding, config.num_groups),
                ]
            )
            if config.mid_block
            else None
        )
        self.up_blocks = nn.ModuleList()
        current = widths[-1]
        for level in reversed(range(len(widths))):
            channels = widths[level]
            inputs = []
            for _ in range(config.num_layers + 1):
                inputs.append(current + skips.pop())
                current = channels
            resample = nn.Conv2d(channels, channels, 3, padding=1)
            self.up_blocks.append(
                Level(
                    inputs,
                    channels,
                    config=config,
                    attention=level in config.attention_levels,
                    resample=resample if level > 0 else None,
                )
            )
        assert not skips
        self.conv_norm_out = nn.GroupNorm(config.num_groups, widths[0], eps=1e-5)
        self.conv_out = nn.Conv2d(widths[0], out_channels, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)
        assert self.conv_out.bias is not None
        nn.init.zeros_(self.conv_out.bias)

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        embedding = self.time_embedding(
            timestep_embedding(timesteps, self.conv_in.out_channels).to(x.dtype)
        )
        x = self.conv_in(x)
        skips = [x]
        for block in self.down_blocks:
            assert isinstance(block, Level)
            for index in range(len(block.resnets)):
                x = block.layer(index, x, embedding)
                skips.append(x)
            if block.resample is not None:
                x = block.resample(x)
                skips.append(x)
        if self.mid_block is not None:
            first, attention, second = self.mid_block
            x = second(attention(first(x, embedding)), embedding)
        for block in self.up_blocks:
            assert isinstance(block, Level)
            for index in range(len(block.resnets)):
                x = block.layer(index, torch.cat([x, skips.pop()], dim=1), embedding)
            if block.resample is not None:
                x = block.resample(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        y: Tensor = self.conv_out(F.silu(self.conv_norm_out(x)))
        return y
