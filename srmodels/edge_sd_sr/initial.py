"""Weights that others trained, as a start: Stable Diffusion's VAE and UNet, TAESD's kin."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from srmodels.edge_sd_sr.network import EdgeSDSR
from srmodels.edge_sd_sr.slicing import slice_unet
from srmodels.system import InitialWeights
from srmodels.weights import find_weights, read_weights

#: Attention of VAEs that were saved before diffusers 0.17.
_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


@dataclass
class EdgeSDSRInitialWeights(InitialWeights):
    """The sources of first weights. Networks without a source start at random.

    Each is a .safetensors file, a folder in diffusers' layout, or OWNER/NAME on the Hugging Face
    hub. Files in TAESD's own layout do as well.

    vae: for the HR encoder, an `AutoencoderKL` (kind `kl`) or `AutoencoderTiny` (kind `tiny`).
    decoder: for the decoder, an `AutoencoderTiny`.
    unet: for the UNet, a `UNet2DConditionModel`, sliced to the widths of `networks.unet`. The
        teacher starts from it too.
    """

    vae: str | None = None
    decoder: str | None = None
    unet: str | None = None

    def files(self) -> dict[str, Path]:
        parts = {"vae": "vae", "decoder": "vae", "unet": "unet"}
        found = {}
        for key, part in parts.items():
            if source := getattr(self, key):
                try:
                    found[key] = find_weights(source, part)
                except ValueError as error:
                    raise ValueError(f"init.{key}: {error}") from None
        return found

    def load(self, network: EdgeSDSR, files: Mapping[str, Path]) -> list[str]:
        loaders = {"vae": _load_encoder, "decoder": _load_decoder, "unet": _load_unet}
        lines = []
        for key, path in files.items():
            weights = read_weights(path)
            try:
                lines.append(f"init.{key}: {loaders[key](network, weights)} of {path}")
            except ValueError as error:
                raise ValueError(f"init.{key}: {path} does not fit: {error}.") from None
        return lines


def _load_encoder(network: EdgeSDSR, weights: dict[str, Tensor]) -> str:
    if network.config.hr_encoder.kind == "kl":
        wanted = {_renamed(name): weight for name, weight in weights.items()}
        own = {n: w for n, w in wanted.items() if n.startswith(("encoder.", "quant_conv."))}
        own = {n: w.flatten(1) if "attentions" in n and w.ndim == 4 else w for n, w in own.items()}
    else:
        own = _layers(weights, "encoder.layers.", first=0)
    return _load(network.hr_encoder, "networks.hr_encoder", own)


def _load_decoder(network: EdgeSDSR, weights: dict[str, Tensor]) -> str:
    own = _layers(weights, "decoder.layers.", first=1)
    return _load(network.decoder, "networks.decoder", own)


def _load_unet(network: EdgeSDSR, weights: dict[str, Tensor]) -> str:
    new = slice_unet(network.unet, weights)
    if network.teacher is not None:
        network.teacher.unet.load_state_dict(network.unet.state_dict())
    total = len(network.unet.state_dict())
    rest = f" ({len(new)} stay random, for example {new[0]})" if new else ""
    return f"{total - len(new)} of {total} tensors{rest}"


def _layers(weights: dict[str, Tensor], prefix: str, first: int) -> dict[str, Tensor]:
    """Returns the tensors of the layers, by their names in our networks.

    In diffusers' layout they are those below `prefix`. In TAESD's own layout their names begin with
    the layers' numbers, which count from `first`.
    """
    if any(name.startswith(prefix) for name in weights):
        own = {n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)}
    else:
        own = {}
        for name, weight in weights.items():
            number, dot, rest = name.partition(".")
            if number.isdigit():
                own[f"{int(number) - first}{dot}{rest}"] = weight
    return {f"layers.{name}": weight for name, weight in own.items()}


def _renamed(name: str) -> str:
    if ".attentions." not in name:
        return name
    head, last, leaf = name.rsplit(".", 2)
    return f"{head}.{_OLD_NAMES.get(last, last)}.{leaf}"


def _load(module: nn.Module, what: str, weights: Mapping[str, Tensor]) -> str:
    own = module.state_dict()
    shapes = [{n: tuple(w.shape) for n, w in given.items()} for given in (own, weights)]
    wrong = sorted(n for n in own.keys() | weights.keys() if shapes[0].get(n) != shapes[1].get(n))
    if wrong:
        here, there = (given.get(wrong[0], "absent") for given in shapes)
        raise ValueError(
            f"{len(wrong)} tensors differ from {what}, for example {wrong[0]}, which is {there} "
            f"there and {here} here"
        )
    module.load_state_dict(dict(weights))
    return f"{len(own)} tensors"
