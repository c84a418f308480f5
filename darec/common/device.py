"""The device of tensors."""

import torch

from darec.common.errors import UserError


def pick(wanted: str, where: str) -> torch.device:
    """The device for the value `wanted` of the field `where`. auto: a GPU if there is one.

    Raises:
        UserError: `wanted` is cuda and there is no CUDA device.
    """
    there = torch.cuda.is_available()
    if wanted == "cuda" and not there:
        raise UserError("no CUDA device is available", where=where, hint="set it to auto or cpu, or see `darec doctor`")
    return torch.device("cuda" if there and wanted != "cpu" else "cpu")


def bfloat16_helps(device: torch.device) -> bool:
    """Whether the hardware supports bfloat16. Matrix products in bfloat16 are then twice as fast, and otherwise several
    times slower.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
