"""The numbers of an F2SRGAN: teacher, students and the mobile network differ in these alone."""

from dataclasses import dataclass

from srmodels.checks import check_one_of, check_positive
from srmodels.compression.structure import NetworkConfig
from srmodels.layers import DiscriminatorConfig

TRUNKS = ("fourier", "separable", "plain")


@dataclass
class F2SRGANConfig(NetworkConfig):
    """Networks of F2SRGAN.

    trunk: kind of the generator. `fourier`: residual blocks of depthwise separable convolutions,
        every other one with a fast Fourier convolution (F2SRGAN). `separable`: the same without
        Fourier (the student of Light F2SRGAN). `plain`: 3x3 convolutions and ReLU alone (*ours*),
        which is what phones compute fastest.

    num_blocks: residual blocks; for `plain`, convolutions before the last.

    enlarged: True where the network's result is added to the bilinearly enlarged x_l (*ours*: the
        released networks have no such sum, and learn the image itself). `plain` holds that sum in
        its convolutions, whatever `enlarged` says.

    conv: kind of `plain`'s convolutions in training, `ecb` or `plain` (see `srmodels.layers`); at
        inference all are 3x3.

    discriminator: the discriminator of a perceptual stage; it does not ship.
    """

    scale: int = 4
    trunk: str = "fourier"
    channels: int = 64
    num_blocks: int = 16
    enlarged: bool = True
    conv: str = "ecb"
    discriminator: DiscriminatorConfig | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_one_of("networks.trunk", self.trunk, TRUNKS)
        check_one_of("networks.conv", self.conv, ("ecb", "plain"))
        scales = (2, 3, 4, 8) if self.trunk == "plain" else (2, 4, 8)
        check_one_of("networks.scale", self.scale, scales)
        check_positive("networks", self)
        if self.trunk == "fourier" and self.channels % 16:
            raise ValueError(
                f"networks.channels is {self.channels}, but must be a multiple of 16 with "
                "networks.trunk=fourier, which divides it among its branches."
            )
        if self.trunk == "plain" and self.channels < 3:
            raise ValueError(
                f"networks.channels is {self.channels}, but networks.trunk=plain carries the three "
                "colours of the image through all convolutions: set 3 or more."
            )
