"""The whole Edge-SD-SR: encoders, UNet and decoder, and the one-step inference through them."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from srmodels.edge_sd_sr.autoencoder import LATENT_STRIDE, Decoder, HREncoder, LREncoder
from srmodels.edge_sd_sr.config import EdgeSDSRConfig
from srmodels.edge_sd_sr.diffusion import ForwardProcess, Prediction
from srmodels.edge_sd_sr.unet import ResnetBlock, SpatialTransformer, UNet
from srmodels.edge_sd_sr.vae import StableDiffusionEncoder
from srmodels.layers import ResBlock
from srmodels.network import INFERENCE_SEED, Part, SRNetwork
from srmodels.transfer import to_device


class Teacher(nn.Module):
    """UNet and LR encoder for half the scale: used in training only."""

    def __init__(self, config: EdgeSDSRConfig) -> None:
        super().__init__()
        latent = config.latent_channels
        self.lr_encoder = LREncoder(config.lr_encoder, latent, config.scale // 2)
        self.unet = UNet(config.unet, 2 * latent, latent)


class EdgeSDSR(SRNetwork):
    """One-step latent diffusion super-resolution, Noroozi et al., arXiv 2412.06978.

    z_l, log v² = E_LR(x_l); inference starts where the forward process ends (by default near
    z_l + v·ε), one UNet call on concat[z_T, z_l] predicts ẑ_h, and the decoder turns it into the
    image. HR encoder, teacher and discriminator are only there for training.
    """

    def __init__(self, config: EdgeSDSRConfig) -> None:
        super().__init__()
        self.config = config
        self.scale = config.scale
        latent = config.latent_channels
        self.lr_factor = LATENT_STRIDE // config.scale
        self.size_multiple = self.lr_factor * 2 ** (len(config.unet.channels) - 1)
        encoder = HREncoder if config.hr_encoder.kind == "tiny" else StableDiffusionEncoder
        self.hr_encoder = encoder(config.hr_encoder, latent)
        self.lr_encoder = LREncoder(config.lr_encoder, latent, config.scale)
        self.unet = UNet(config.unet, 2 * latent, latent)
        self.decoder = Decoder(config.decoder, latent, config.scale)
        self.discriminator = config.discriminator.build() if config.discriminator else None
        self.teacher = Teacher(config) if config.teacher else None
        self.process = _process(config)
        self.prediction = Prediction(config.prediction, self.process)

    def inference_modules(self) -> dict[str, nn.Module]:
        """Returns the networks that ship; the HR encoder stays behind."""
        return {"lr_encoder": self.lr_encoder, "unet": self.unet, "decoder": self.decoder}

    def finetuning_modules(self) -> dict[str, nn.Module]:
        """Returns the HR encoder, which defines the latent space."""
        return {"hr_encoder": self.hr_encoder}

    def checkpointed_modules(self) -> list[nn.Module]:
        """Returns the residual blocks of all networks and the UNet's attention."""
        blocks = (ResBlock, ResnetBlock, SpatialTransformer)
        return [module for module in self.modules() if isinstance(module, blocks)]

    def to_coded(self, x_h: Tensor, x_l: Tensor) -> Tensor:
        """Returns the image or residual that the latent codes, `[B, 3, H, W]`, of about unit
        range."""
        if self.config.latent_of == "image":
            return x_h
        return (x_h - self._enlarge(x_l)) * self.config.residual_gain

    def from_coded(self, coded: Tensor, x_l: Tensor) -> Tensor:
        """Inverts `to_coded`; returns an image `[B, 3, H, W]`, about [0, 1] (not clamped)."""
        if self.config.latent_of == "image":
            return coded
        return self._enlarge(x_l) + coded / self.config.residual_gain

    def _enlarge(self, x_l: Tensor) -> Tensor:
        return F.interpolate(x_l, scale_factor=self.scale, mode="bilinear", align_corners=False)

    def encode(self, x_h: Tensor, x_l: Tensor) -> Tensor:
        """Returns z_h `[B, C, H/8, W/8]`."""
        z_h: Tensor = self.hr_encoder(self.to_coded(x_h, x_l))
        return z_h

    def decode(self, z: Tensor, x_l: Tensor) -> Tensor:
        """Returns the image `[B, 3, H, W]` of a latent, about [0, 1] (not clamped)."""
        return self.from_coded(self.decoder(z, x_l), x_l)

    def noise(self, log_variance: Tensor, unit_noise: Tensor) -> Tensor:
        """Returns n = v·ε `[B, C, h, w]`; the recipe's `conditioning.variance` says what v is.

        Args:
            log_variance: log v², from the LR encoder.
            unit_noise: ε, standard normal.
        """
        conditioning = self.config.conditioning
        if conditioning.variance == "learned":
            return torch.exp(0.5 * log_variance) * unit_noise
        constant = 0.0 if conditioning.variance == "zero" else conditioning.constant_variance
        return math.sqrt(constant) * unit_noise

    def predict(
        self, z_t: Tensor, z_l: Tensor, timesteps: Tensor, by: "EdgeSDSR | Teacher | None" = None
    ) -> Tensor:
        """Returns the output of a UNet, `[B, C, h, w]`; `self.prediction` says what it means.

        Args:
            by: the network whose UNet is called; by default this one.
        """
        output: Tensor = (by or self).unet(torch.cat([z_t, z_l], dim=1), timesteps)
        return output

    def one_step_latent(
        self, x_l: Tensor, noise: Tensor | None, by: "EdgeSDSR | Teacher | None" = None
    ) -> Tensor:
        """Returns ẑ_h in one UNet call.

        Args:
            x_l: LR images `[B, 3, h, w]`; those of the teacher are twice as large.
            noise: standard normal, of the latent's shape; None to start at the mean of z_T.
            by: the network whose LR encoder and UNet are called; by default this one.
        """
        return self._denoise(*self._start(x_l, noise, by), by)

    def _start(
        self, x_l: Tensor, noise: Tensor | None, by: "EdgeSDSR | Teacher | None" = None
    ) -> tuple[Tensor, Tensor]:
        """Returns z_T and z_l, `[B, C, h, w]` each; the arguments are `one_step_latent`'s."""
        z_l, log_variance = (by or self).lr_encoder(x_l)
        z_t = self.process.start(z_l, None if noise is None else self.noise(log_variance, noise))
        return z_t, z_l

    def _denoise(self, z_t: Tensor, z_l: Tensor, by: "EdgeSDSR | Teacher | None" = None) -> Tensor:
        """Returns ẑ_h, `[B, C, h, w]`, of what `_start` returns."""
        last = self.process.num_timesteps - 1
        timesteps = torch.full((z_l.shape[0],), last, device=z_l.device)
        return self.prediction.z_h(self.predict(z_t, z_l, timesteps, by), z_t, z_l, timesteps)

    def inference_noise(self, x_l: Tensor) -> Tensor | None:
        """Returns the fixed noise for `x_l`, if inference starts with one. It is the same for every
        image and every call."""
        if not self.config.conditioning.inference_noise:
            return None
        height, width = x_l.shape[2] // self.lr_factor, x_l.shape[3] // self.lr_factor
        generator = torch.Generator().manual_seed(INFERENCE_SEED)
        shape = (1, self.config.latent_channels, height, width)
        return to_device(torch.randn(shape, generator=generator), x_l.device).to(x_l.dtype)

    def for_tile(self, tile: int) -> nn.Module:
        return _FixedNoise(self, self.inference_noise(torch.empty(1, 3, tile, tile)))

    def parts_for_tile(self, tile: int) -> dict[str, Part]:
        """Returns the encoder, with the start of inference, the UNet and the decoder."""
        noise = self.inference_noise(torch.empty(1, 3, tile, tile))
        return {
            "encoder": Part(_EncoderPart(self, noise), ("x_l",), ("z_t", "z_l")),
            "unet": Part(_UNetPart(self), ("z_t", "z_l"), ("z_h",)),
            "decoder": Part(_DecoderPart(self), ("z_h", "x_l"), ("x_h",)),
        }

    def forward(self, x_l: Tensor, noise: Tensor | None = None) -> Tensor:
        if noise is None:
            noise = self.inference_noise(x_l)
        return self._picture(self.one_step_latent(x_l, noise), x_l)

    def _picture(self, z_h: Tensor, x_l: Tensor) -> Tensor:
        """Returns the image `[B, 3, H, W]` of a latent, in [0, 1]."""
        return self.decode(z_h, x_l).clamp(0.0, 1.0)


def _process(config: EdgeSDSRConfig) -> ForwardProcess:
    conditioning, steps = config.conditioning, config.num_timesteps
    zero = conditioning.zero_terminal_snr
    if conditioning.forward == "resshift":
        return ForwardProcess.residual_shift(
            steps, conditioning.resshift_kappa, conditioning.resshift_power, zero
        )
    if conditioning.forward == "additive":
        return ForwardProcess.towards_latent(steps, zero)
    return ForwardProcess.towards_noise(steps, zero)


class _FixedNoise(nn.Module):
    """The network with its inference noise, if it has one, as a constant."""

    noise: Tensor | None

    def __init__(self, network: EdgeSDSR, noise: Tensor | None) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("noise", noise)

    def forward(self, x_l: Tensor) -> Tensor:
        x: Tensor = self.network(x_l, self.noise)
        return x


class _EncoderPart(_FixedNoise):
    """Maps x_l to z_T and z_l."""

    def forward(self, x_l: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return self.network._start(x_l, self.noise)


class _UNetPart(nn.Module):
    """Maps z_T and z_l to ẑ_h."""

    def __init__(self, network: EdgeSDSR) -> None:
        super().__init__()
        self.network = network

    def forward(self, z_t: Tensor, z_l: Tensor) -> Tensor:
        return self.network._denoise(z_t, z_l)


class _DecoderPart(_UNetPart):
    """Maps ẑ_h and x_l to x_h."""

    def forward(self, z_h: Tensor, x_l: Tensor) -> Tensor:
        return self.network._picture(z_h, x_l)
