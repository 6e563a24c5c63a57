"""LPIPS: how different two images look, by the features of a network that knows images."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from srmodels.weights import pretrained

BACKBONES = ("alex", "vgg")
#: Side of the smallest image that is left something of by a backbone's strides.
SMALLEST = {"alex": 31, "vgg": 16}
#: Numbers of torchvision's `features`, behind whose ReLU the features are compared.
_TAPS = {"alex": (1, 4, 7, 9, 11), "vgg": (3, 8, 15, 22, 29)}
_CHANNELS = {"alex": (64, 192, 384, 256, 256), "vgg": (64, 128, 256, 512, 512)}
_VGG = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512)


class LPIPS(nn.Module):
    """Learned perceptual image patch similarity v0.1, Zhang et al., arXiv 1801.03924.

    It is 0 for equal images, and lower for images that are more alike. Its weights are useful after
    `load` alone.

    Args:
        backbone: `alex`, the usual one to report, or `vgg`, the usual one to train with.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: str) -> None:
        super().__init__()
        self.backbone = backbone
        features = _alex() if backbone == "alex" else _vgg()
        starts = (0, *(tap + 1 for tap in _TAPS[backbone]))
        self.slices = nn.ModuleList(
            nn.Sequential(*features[first:end]) for first, end in pairwise(starts)
        )
        self.heads = nn.ParameterList(torch.zeros(1, c, 1, 1) for c in _CHANNELS[backbone])
        # ImageNet's mean and deviation, for images in [-1, 1].
        self.register_buffer("mean", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1))
        self.requires_grad_(False)

    @property
    def pretrained_names(self) -> tuple[str, str]:
        """The names of its features and of its heads, see `pretrained`."""
        return pretrained_names(self.backbone)

    def load(self) -> "LPIPS":
        """Takes the published weights, see `pretrained`.

        Raises:
            ValueError: they are not at hand, or not those of this network.
        """
        features, heads = (pretrained(name) for name in self.pretrained_names)
        layers = [layer for part in self.slices for layer in part.children()]
        expected = {
            f"features.{number}.{kind}": value
            for number, layer in enumerate(layers)
            for kind, value in layer.named_parameters()
        } | {f"lin{number}.model.1.weight": head for number, head in enumerate(self.heads)}
        found = features | heads
        for name, value in expected.items():
            if name not in found or found[name].shape != value.shape:
                raise ValueError(
                    f"the weights {' and '.join(self.pretrained_names)} are not LPIPS's: {name} is "
                    "missing or has another shape; get them again."
                )
            value.data.copy_(found[name])
        return self

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Returns `[B]` distances of two batches `[B, 3, H, W]` of images in [0, 1]."""
        x, y = (self._normalised(image) for image in (x, y))
        total = torch.zeros((), device=x.device)
        for part, head in zip(self.slices, self.heads, strict=True):
            x, y = part(x), part(y)
            # Of length 1 along the channels.
            difference = (F.normalize(x, dim=1) - F.normalize(y, dim=1)).square()
            total = total + (difference * head).sum(dim=1).mean(dim=(1, 2))
        return total

    def last_features(self, x: Tensor) -> Tensor:
        """Returns the features behind the last ReLU that is compared, `[B, C, h, w]`, of images
        `[B, 3, H, W]` in [0, 1]."""
        x = self._normalised(x)
        for part in self.slices:
            x = part(x)
        return x

    def _normalised(self, image: Tensor) -> Tensor:
        normalised: Tensor = (image * 2 - 1 - self.mean) / self.std
        return normalised


def pretrained_names(backbone: str) -> tuple[str, str]:
    """Returns the names of a backbone's features and heads, for `pretrained`."""
    features = {"alex": "alexnet_features", "vgg": "vgg16_features"}[backbone]
    return features, f"lpips_{backbone}_heads"


def _alex() -> list[nn.Module]:
    """Returns torchvision's `alexnet().features`, up to its last pooling."""
    return [
        nn.Conv2d(3, 64, 11, stride=4, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(),
    ]


def _vgg() -> list[nn.Module]:
    """Returns torchvision's `vgg16().features`, up to its last pooling."""
    layers: list[nn.Module] = []
    previous = 3
    for channels in _VGG:
        if channels:
            layers += [nn.Conv2d(previous, channels, 3, padding=1), nn.ReLU()]
            previous = channels
        else:
            layers.append(nn.MaxPool2d(2))
    return layers
