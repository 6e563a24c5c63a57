"""Brings tensors to a device, without letting a host wait for its GPU."""

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Returns a tensor of main memory on `device`.

    To a GPU it goes from page-locked memory: from other memory, even an asynchronous copy makes the
    host wait for all work that the GPU has not done yet.
    """
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
