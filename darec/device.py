"""Where tensors are worked on."""

import torch

from darec.errors import UserError


def pick(wanted: str) -> torch.device:
    """The device that a configuration's `device` means: auto takes a GPU if there is one.

    Raises:
        UserError: cuda is wanted and there is none.
    """
    there = torch.cuda.is_available()
    if wanted == "cuda" and not there:
        raise UserError("no CUDA device is there", where="device: cuda", mend="set device to auto or cpu; darec doctor")
    return torch.device("cuda" if there and wanted != "cpu" else "cpu")
