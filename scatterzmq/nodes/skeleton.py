"""Building a torch module without memory for its weights and without making up values for them.

While a module is built this way, `torch.empty` makes tensors on the device "meta" (layers make their weights so), and
filling such a tensor does nothing. Whatever is computed from values (tables of positions, masks) stays real, so that
buffers which are in no weights file are right. Everything is done by a mode of the calling thread: torch itself is not
patched. Filling on "meta" for real would import 800 modules and take a second.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

_FILLING = frozenset(
    {
        *("add_", "bernoulli_", "cauchy_", "clamp_", "copy_", "div_", "erfinv_", "exponential_", "fill_", "geometric_"),
        *("log_normal_", "mul_", "normal_", "random_", "sub_", "uniform_", "zero_"),
        *("constant_", "dirac_", "eye_", "kaiming_normal_", "kaiming_uniform_", "ones_", "orthogonal_", "sparse_"),
        *("trunc_normal_", "xavier_normal_", "xavier_uniform_", "zeros_"),
    }
)
"""Methods of tensors and functions of nn.init that change values only."""


class _WithoutValues(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        if func is torch.empty:
            named["device"] = "meta"
        elif getattr(func, "__name__", "") in _FILLING:
            target = args[0] if args else named.get("tensor")
            if isinstance(target, torch.Tensor) and target.is_meta:
                return target
        return func(*args, **named)


def build(kind: type[nn.Module], init: Mapping[str, object]) -> nn.Module:
    """The module for evaluation, with weights on "meta" where they have no values. Raises what its __init__ raises."""
    with _WithoutValues():
        module = kind(**init)
    return module.eval().requires_grad_(False)


def weight_names(module: nn.Module) -> list[tuple[torch.Tensor, list[str]]]:
    """Every weight (parameters and buffers of the state dict) with its names: more than one where they are tied."""
    found: dict[int, tuple[torch.Tensor, list[str]]] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        found.setdefault(id(tensor), (tensor, []))[1].append(name)
    return list(found.values())


def empty_names(module: nn.Module) -> list[str]:
    """Parameters and buffers that have no values yet."""
    everything = (*module.named_parameters(), *module.named_buffers())
    return [name for name, tensor in everything if tensor.is_meta]
