"""The numbers of an RDSR: its recipes, small and large, differ in these alone."""

from dataclasses import dataclass, field

from srmodels.checks import check_not_negative, check_one_of, check_positive
from srmodels.compression.structure import NetworkConfig
from srmodels.layers import CONVOLUTIONS, DiscriminatorConfig

PRIORS = ("none", "regressed", "diffused")


@dataclass
class PriorEncoderConfig:
    """Latent prior encoder: image → a vector of `prior_channels` numbers.

    num_blocks: number of residual blocks. DiffIR has 9; 8 give the paper's number of parameters.
        The 8 are a reconstruction.

    unshuffle: the encoder reads the image at 1/unshuffle of the LR resolution, its pixels in
        channels. That is a reconstruction. DiffIR, which RDSR follows, reads LR at full resolution:
        that alone costs more than a decoder of this size.
    """

    channels: int = 64
    num_blocks: int = 8
    unshuffle: int = 4


@dataclass
class DecoderConfig:
    """RepD, a stack of 3x3 convolutions and ReLU at the LR resolution.

    conv: `ecb`, `repvgg` or `plain`; all cost the same at inference.

    modulate_every: n, where the prior scales and shifts every n-th of the `num_convs` convolutions
        of the body; 1 for all of them.
    """

    channels: int = 48
    num_convs: int = 16
    conv: str = "ecb"
    modulate_every: int = 1


@dataclass
class RDSRConfig(NetworkConfig):
    """Networks of RDSR.

    prior: kind of the prior that steers the decoder at inference. `diffused`: the reverse process
        makes it from noise and the LR encoder's output. `regressed`: it is the LR encoder's output,
        to find out the use of diffusion. `none`: there is no prior, and only the decoder.

    discriminator: the discriminator of the perceptual stage; it does not ship.

    prior_channels, num_timesteps: DiffIR's 256 numbers and T = 4 (Xia et al., arXiv 2303.09472).
    """

    scale: int = 4
    prior: str = "diffused"
    prior_channels: int = 256
    num_timesteps: int = 4
    prior_encoder: PriorEncoderConfig = field(default_factory=PriorEncoderConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    discriminator: DiscriminatorConfig | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_one_of("networks.scale", self.scale, (2, 3, 4, 8))
        check_one_of("networks.prior", self.prior, PRIORS)
        check_one_of("networks.decoder.conv", self.decoder.conv, CONVOLUTIONS)
        check_positive("networks", self, but=("num_blocks",))
        check_not_negative("networks.prior_encoder.num_blocks", self.prior_encoder.num_blocks)
