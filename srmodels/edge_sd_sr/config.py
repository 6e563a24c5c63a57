"""The numbers of an Edge-SD-SR: the tiny and the full-size recipe differ in these alone."""

from dataclasses import dataclass, field

from srmodels.checks import check_one_of, check_positive
from srmodels.compression.structure import NetworkConfig
from srmodels.edge_sd_sr.diffusion import PREDICTIONS
from srmodels.layers import DiscriminatorConfig


@dataclass
class HREncoderConfig:
    """HR encoder, levels from fine to coarse: used in training only, frozen after its stage.

    kind: `tiny`, one of TAESD's shape, or `kl`, Stable Diffusion's own (see `vae`), whose numbers
        are channels [128, 256, 512, 512] and num_blocks [2, 2, 2, 2].

    pooled: True where the blocks of the coarsest level are TAEF2's, see `ResBlock`; `tiny` alone.

    num_groups: number of groups of `kl`'s group norms.
    """

    kind: str = "tiny"
    channels: list[int] = field(default_factory=lambda: [64, 64, 64, 64])
    num_blocks: list[int] = field(default_factory=lambda: [1, 3, 3, 3])
    pooled: bool = False
    num_groups: int = 32


@dataclass
class LREncoderConfig:
    """LR encoder: reads the LR image at half its resolution, gives mean and log-variance."""

    channels: int = 128
    num_blocks: int = 4


@dataclass
class UNetConfig:
    """The denoiser. No text, no cross-attention; `attention_levels` counts from 0 = finest."""

    channels: list[int] = field(default_factory=lambda: [192, 384, 768, 768])
    num_layers: int = 1
    attention_levels: list[int] = field(default_factory=lambda: [1, 2])
    head_channels: int = 64
    mid_block: bool = False
    num_groups: int = 32


@dataclass
class DecoderConfig:
    """Latent → image, channels and blocks per level from coarse to fine; `pooled` as above.

    lr_skip: True where the level of the LR image's resolution sees that image too (*ours*; the
        paper names no such path). Its edges need not pass through the latent then.
    """

    channels: list[int] = field(default_factory=lambda: [224, 64, 64, 48])
    num_blocks: list[int] = field(default_factory=lambda: [3, 3, 2, 1])
    pooled: bool = False
    lr_skip: bool = False


@dataclass
class ConditioningConfig:
    """The ways in which the LR latent enters the diffusion, besides being concatenated to the
    UNet's input.

    forward: the end of the forward process (see `diffusion.ForwardProcess`). `none` ends at the
    noise n, `additive` at z_l + n, and `resshift` at z_l + `resshift_kappa` · n, on ResShift's way.

    variance: v² of the noise n = v·ε. It is `zero`, `constant` or `learned`. The LR encoder gives
    the learned one for each latent element. `none` with a `constant_variance` of 1 is ordinary
    diffusion. With `zero`, a UNet can work out z_h from z_t and z_l wherever z_t holds any of it.

    zero_terminal_snr: True where nothing of z_h is left in z_T (arXiv 2305.08891). Otherwise a
    little is, as in Stable Diffusion's schedule: the UNet learns to read it, and inference, which
    starts at z_T, does not have it. The smaller the noise, the more that costs.

    inference_noise: True where inference starts with a noise, the same each time; False where it
    starts at the mean of z_T, which is the better guess in the mean square.

    The first two reconstruct "bidirectional" and "variance conditioning": the text of the paper
    (arXiv 2412.06978) was not at hand.
    """

    forward: str = "additive"
    variance: str = "learned"
    constant_variance: float = 0.25
    resshift_kappa: float = 2.0
    resshift_power: float = 0.3
    zero_terminal_snr: bool = False
    inference_noise: bool = True


@dataclass
class EdgeSDSRConfig(NetworkConfig):
    """Networks of Edge-SD-SR. Latents live at 1/8 of HR, whatever the scale.

    prediction: the meaning of the UNet's output, see `diffusion.Prediction`.

    teacher: True where there are a UNet and an LR encoder for half the scale. Those that ship learn
    from them by scale distillation.

    latent_of: the input of the HR encoder and the output of the decoder. `image` is that of Stable
    Diffusion. `residual` is the difference between the HR and the bilinearly enlarged LR image
    (SRDiff, Li et al., arXiv 2104.14951), `residual_gain` times. With it a small network need not
    learn again the content of the LR image. The paper does not say that it does this; the tiny
    recipe does.
    """

    scale: int = 4
    latent_channels: int = 4
    latent_of: str = "image"
    residual_gain: float = 10.0
    num_timesteps: int = 1000
    prediction: str = "residual"
    hr_encoder: HREncoderConfig = field(default_factory=HREncoderConfig)
    lr_encoder: LREncoderConfig = field(default_factory=LREncoderConfig)
    unet: UNetConfig = field(default_factory=UNetConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    discriminator: DiscriminatorConfig | None = None
    teacher: bool = False
    conditioning: ConditioningConfig = field(default_factory=ConditioningConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("networks", self, but=("num_blocks", "attention_levels"))
        check_one_of("networks.scale", self.scale, (2, 4, 8))
        check_one_of("networks.latent_of", self.latent_of, ("image", "residual"))
        if self.teacher and self.scale == 2:
            raise ValueError(
                "networks.teacher has half the scale, so networks.scale must be 4 or 8."
            )
        _check_diffusion(self.conditioning, self.prediction)
        _levels("networks.hr_encoder", self.hr_encoder.channels, self.hr_encoder.num_blocks)
        _check_encoder(self.hr_encoder, self.latent_of)
        _levels("networks.decoder", self.decoder.channels, self.decoder.num_blocks)
        _check_skip(self.decoder, self.scale)
        unet = self.unet
        for level, channels in enumerate(unet.channels):
            _multiple("networks.unet", level, channels, unet.num_groups)
        for level in unet.attention_levels:
            if not 0 <= level < len(unet.channels):
                raise ValueError(
                    f"networks.unet.attention_levels names level {level}, but there are "
                    f"{len(unet.channels)} levels, counted from 0."
                )
            if unet.channels[level] % unet.head_channels:
                raise ValueError(
                    f"networks.unet.channels[{level}] = {unet.channels[level]} must be a multiple "
                    f"of networks.unet.head_channels = {unet.head_channels} to have attention."
                )


def _check_encoder(encoder: HREncoderConfig, latent_of: str) -> None:
    check_one_of("networks.hr_encoder.kind", encoder.kind, ("tiny", "kl"))
    if encoder.kind == "tiny":
        return
    if latent_of != "image":
        raise ValueError(
            "networks.hr_encoder.kind=kl, Stable Diffusion's, codes images: set "
            "networks.latent_of=image."
        )
    if len(encoder.channels) != 4 or len(set(encoder.num_blocks)) != 1:
        raise ValueError(
            "networks.hr_encoder.kind=kl needs four levels of equally many blocks, as in "
            "channels=[128,256,512,512] num_blocks=[2,2,2,2]."
        )
    for level, channels in enumerate(encoder.channels):
        _multiple("networks.hr_encoder", level, channels, encoder.num_groups)


def _check_skip(decoder: DecoderConfig, scale: int) -> None:
    needed = {8: 1, 4: 2, 2: 3}[scale]
    if decoder.lr_skip and len(decoder.channels) < needed:
        raise ValueError(
            "networks.decoder.lr_skip needs a level of the LR image's resolution: set at least "
            f"{needed} networks.decoder.channels for networks.scale={scale}."
        )


def _multiple(key: str, level: int, channels: int, num_groups: int) -> None:
    if channels % num_groups:
        raise ValueError(
            f"{key}.channels[{level}] = {channels} must be a multiple of {key}.num_groups = "
            f"{num_groups}."
        )


def _check_diffusion(conditioning: ConditioningConfig, prediction: str) -> None:
    forward, variance = conditioning.forward, conditioning.variance
    check_one_of("networks.conditioning.forward", forward, ("none", "additive", "resshift"))
    check_one_of("networks.conditioning.variance", variance, ("zero", "constant", "learned"))
    check_one_of("networks.prediction", prediction, PREDICTIONS)
    if forward == "none" and variance == "learned":
        raise ValueError(
            "networks.conditioning.variance=learned is how far the LR latent is from the HR "
            "latent, which conditioning.forward=none does not ask: set variance=constant, or "
            "another forward."
        )
    if (forward, variance) == ("none", "zero"):
        raise ValueError(
            "networks.conditioning.forward=none starts from noise, and variance=zero leaves none: "
            "set variance=constant, or another forward."
        )
    if prediction == "epsilon" and conditioning.zero_terminal_snr:
        raise ValueError(
            "networks.prediction=epsilon cannot give the HR latent where "
            "networks.conditioning.zero_terminal_snr leaves nothing of it: set another prediction."
        )
    if prediction == "epsilon" and forward == "resshift":
        raise ValueError(
            "networks.prediction=epsilon cannot give the HR latent where resshift ends, with a "
            "thousandth of it left: set another prediction, or another forward."
        )
    if prediction == "v" and forward == "resshift":
        raise ValueError(
            "networks.prediction=v needs a process whose signal and noise share the variance: set "
            "networks.conditioning.forward=additive or none, or another prediction."
        )
    if prediction == "epsilon" and variance == "zero":
        raise ValueError(
            "networks.prediction=epsilon has nothing to predict with "
            "networks.conditioning.variance=zero: set one of them to something else."
        )


def _levels(key: str, channels: list[int], num_blocks: list[int]) -> None:
    if not 1 <= len(channels) <= 4 or len(num_blocks) != len(channels):
        raise ValueError(
            f"{key}.channels and {key}.num_blocks need one number per level, for one to four "
            "levels between the latent (1/8) and the image."
        )
