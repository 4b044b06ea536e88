"""The device of an executor: which one a setting names, whether it is here, and how its memory is given back."""

import gc
from typing import TYPE_CHECKING

from ..errors import ConfigError

if TYPE_CHECKING:
    import torch

_KINDS = ("cpu", "cuda", "mps")


def named_device(text: str) -> tuple[str, int]:
    """Kind and number of the device that "cpu", "cuda", "cuda:1" or "mps" names, wherever it is. Raises ConfigError."""
    kind, colon, digits = text.partition(":")
    if kind not in _KINDS or (colon and not (kind == "cuda" and digits.isascii() and digits.isdecimal())):
        raise ConfigError(f"executor.device: expected cpu, cuda, cuda:N or mps, got {text!r}")
    return kind, int(digits or "0")


def parse_device(text: str) -> "torch.device":
    """The device that is named so. Raises ConfigError if it is none or not here."""
    import torch

    kind, index = named_device(text)
    if kind == "cuda":
        count = torch.cuda.device_count()
        if index >= count:
            raise ConfigError(
                f"executor.device: {text!r} is not here, torch sees {count} CUDA devices on this machine; "
                "use cpu, or a CUDA build of torch"
            )
        return torch.device("cuda", index)
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("executor.device: 'mps' is not here; use cpu")
    return torch.device(kind)


def release_memory(device: "torch.device") -> None:
    """Give back what torch keeps for later allocations on a device."""
    import torch

    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def release_all_memory(device: "torch.device", *, thorough: bool) -> None:
    """The same, after what nobody refers to any more: before something that ran out of memory is tried again.

    thorough: look through everything, which takes long; else only through what is new.
    """
    # An error and the frames it passed through often form a cycle that holds tensors.
    gc.collect(2 if thorough else 1)
    release_memory(device)
