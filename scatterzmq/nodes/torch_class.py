"""`torch_class`: an installed torch module as a node, with its slice of a safetensors file as weights.

The tensor `name` of the module is the tensor `prefix + name` of the file; `rename` first replaces the longest of its
keys that `name` begins with. Every weight must be there, and so must the module know every tensor of the file
that lies below one of its own children: a layer that is not quite the one in the file is an error when it is loaded.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module

import torch
from torch import Tensor, nn

from ..errors import BlobError, GraphError, MissingBlob
from ..graph.formats import FieldFormat, Format
from ..graph.nodeinfo import LackingHere
from .args import NodeArgs
from .base import Node, Resources
from .batch import Batch
from .padded import Padded
from .skeleton import build, empty_names, weight_names

BUILT_IN = "scatterzmq.models"
"""Classes below this module need no permission."""


class TorchClass(Node):
    """An installed torch module with its part of a safetensors file.

    Arguments:
        class: "package.module.Class", below scatterzmq.models or in a module that plugins.allow allows.
        init: its keyword arguments.
        weights, prefix, rename: a blob, and how names in it follow from names in the class; see above.
        inputs, outputs: formats. The module is called with its input fields by name; it returns the output field, or
            several as a mapping or in their order.
        padded: fields with an open dimension come zero-padded to the longest of the batch, and `mask`, bool
            [tasks, longest], says what is real; outputs with an open dimension are cut back to these lengths.
        pure: default true.
    """

    def __init__(self, args: NodeArgs) -> None:
        path = args.str("class")
        self._init = args.json_object("init", default={})
        self._weights = args.blob("weights", default=None)
        self._prefix = args.str("prefix", default="")
        self._rename = _texts(args, "rename")
        self._inputs = args.format("inputs")
        self._outputs = args.format("outputs")
        self._padded = args.bool("padded", default=False)
        self.pure = args.bool("pure", default=True)
        self._kind = _allowed_class(args, path)
        self._mask_field, self._mask_dim = self._check_formats(args)
        self._load_cost = self._check_class(args)
        self._module: nn.Module | None = None
        self._device = torch.device("cpu")

    def inputs(self) -> Format:
        return self._inputs

    def outputs(self) -> Mapping[str, Format]:
        return {"out": self._outputs}

    def load_cost(self) -> float:
        """Bytes of the weights, as the class makes them."""
        return self._load_cost

    def held_nbytes(self) -> int:
        """Bytes of the weights that are loaded now."""
        if self._module is None:
            return 0
        return sum(tensor.nbytes for tensor, _ in weight_names(self._module))

    def load(self, resources: Resources) -> None:
        module = build(self._kind, self._init)
        if self._weights is not None:
            tensors = resources.blobs.safetensors(self._weights)
            module.load_state_dict(self._state(module, tensors, resources.device), assign=True)
        empty = empty_names(module)
        if empty:
            raise BlobError(f"{self._kind.__name__} leaves {_some(empty)} without values; compute them from others")
        self._module = module.to(resources.device)
        self._device = resources.device

    def unload(self) -> None:
        self._module = None

    def execute(self, batch: Batch) -> None:
        assert self._module is not None, "executed without being loaded"
        fields: dict[str, Tensor] = {}
        mask: Tensor | None = None
        for name, form in self._inputs.items():
            if form.is_uniform:
                fields[name] = batch.uniform(name).to(self._device)
                continue
            padded, full = batch.padded(name)
            fields[name] = padded.to(self._device)
            lengths = _along(full, form.shape.index(None) + 1)
            if mask is not None and not torch.equal(mask, lengths):
                raise ValueError(
                    f"inputs {self._mask_field} and {name} of a task differ in length; one mask serves all"
                )
            mask = lengths
        with torch.inference_mode():
            if mask is None:
                result = self._module(**fields)
            else:
                result = self._module(**fields, mask=mask.to(self._device))
        batch.answer("out", self._answer(result, mask))

    def _answer(self, result: object, mask: Tensor | None) -> dict[str, Tensor | Padded]:
        if isinstance(result, Tensor):
            result = (result,)
        if isinstance(result, Mapping):
            values = [result.get(name) for name in self._outputs]
        else:
            values = list(result) if isinstance(result, Sequence) else [result]
        if len(values) != len(self._outputs) or not all(isinstance(value, Tensor) for value in values):
            wanted = ", ".join(self._outputs)
            raise TypeError(
                f"{self._kind.__name__} must return one tensor for each of {wanted}; it returned {type(result)}"
            )
        answer: dict[str, Tensor | Padded] = {}
        for (name, form), value in zip(self._outputs.items(), values, strict=True):
            assert isinstance(value, Tensor)
            if form.is_uniform or value.dim() != len(form.shape) + 1:  # of which the second is refused by the batch
                answer[name] = value
            else:
                assert mask is not None, "checked when the node was made"
                answer[name] = Padded(value, shapes=_sizes(mask, value.shape[1:], form))
        return answer

    # ---- weights

    def _state(self, module: nn.Module, tensors: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
        """The module's state dict out of the file: mapped, not copied, when it stays on the CPU."""
        state: dict[str, Tensor] = {}
        missing: list[str] = []
        used: set[str] = set()
        for wanted, names in weight_names(module):
            sources = [source for source in map(self._source, names) if source in tensors]
            used.update(sources)
            if not sources:
                missing.append(self._source(names[0]))
                continue
            tensor = tensors[sources[0]]
            if tensor.shape != wanted.shape:
                have, want = list(tensor.shape), list(wanted.shape)
                raise BlobError(f"{self._from()} tensor {sources[0]!r} has shape {have}, the class needs {want}")
            state.update(dict.fromkeys(names, tensor.to(device)))
        if missing:
            raise MissingBlob(f"{self._from()} tensors {_some(missing)} are missing; check class, prefix and rename")
        below = tuple(self._source(f"{child}.") for child, part in module.named_children() if part.state_dict())
        unexpected = sorted(name for name in tensors if name.startswith(below) and name not in used)
        if unexpected:
            raise BlobError(f"{self._from()} tensors {_some(unexpected)} are not in the class; it is another model's")
        return state

    def _source(self, name: str) -> str:
        """The tensor of the file for a tensor (or the beginning of tensors' names) of the module."""
        best = max((key for key in self._rename if name.startswith(key)), key=len, default="")
        return self._prefix + self._rename.get(best, best) + name.removeprefix(best)

    def _from(self) -> str:
        return f"weights of {self._kind.__name__} in {self._weights!r}:"

    # ---- checks when the graph is loaded

    def _check_class(self, args: NodeArgs) -> float:
        """Bytes of the weights. Builds the module once, so that wrong `init` arguments are found now."""
        try:
            module = build(self._kind, self._init)
        except (TypeError, ValueError) as error:
            raise GraphError(f"{args.error('init', f'arguments of {self._kind.__name__}')}: {error}") from None
        empty = empty_names(module)
        if empty and self._weights is None:
            raise GraphError(f"{args.place}: argument 'weights' is missing: {self._kind.__name__} needs {_some(empty)}")
        return float(sum(tensor.nbytes for tensor, _ in weight_names(module)))

    def _check_formats(self, args: NodeArgs) -> tuple[str | None, int]:
        """The field and dimension that the mask is for."""
        open_fields = [name for name, form in self._inputs.items() if not form.is_uniform]
        if not self._padded:
            if open_fields:
                raise args.error("inputs", f"fixed shapes, or padded = true for {', '.join(open_fields)}")
            if not all(form.is_uniform for form in self._outputs.values()):
                raise args.error("outputs", "fixed shapes; open ones need padded inputs")
            return None, 0
        if not open_fields or "mask" in self._inputs:
            raise args.error("inputs", "a field with an open dimension, since padded is true, and none called mask")
        for name, formats in (("inputs", self._inputs), ("outputs", self._outputs)):
            if any(form.shape.count(None) > 1 for form in formats.values()):
                raise args.error(name, "at most one open dimension per field, because there is one mask for all")
        return open_fields[0], self._inputs[open_fields[0]].shape.index(None)


def _allowed_class(args: NodeArgs, path: str) -> type[nn.Module]:
    module, _, name = path.rpartition(".")
    if not all(part.isascii() and part.isidentifier() for part in path.split(".")):
        raise args.error("class", "the qualified name of a class such as 'package.module.Class'")
    # Looked at before anything is imported: the name comes from a graph file.
    if not any(f"{module}.".startswith(f"{allowed}.") for allowed in (BUILT_IN, *args.allow)):
        wrong = args.error("class", f"a class below {BUILT_IN} or in a module that plugins.allow allows")
        raise LackingHere(str(wrong))
    kind = vars(import_module(module)).get(name)
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise args.error("class", "the qualified name of a torch.nn.Module")
    return kind


def _texts(args: NodeArgs, name: str) -> dict[str, str]:
    texts = args.json_object(name, default={})
    if not all(isinstance(text, str) for text in texts.values()):
        raise args.error(name, 'beginnings of names such as {"layers.": "encoder.layer."}')
    return {key: str(text) for key, text in texts.items()}


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def _along(mask: Tensor, dim: int) -> Tensor:
    """A mask [tasks, ..., length, ...] of which only `dim` is open, as [tasks, length]."""
    for other in range(mask.dim() - 1, 0, -1):
        if other != dim:
            mask = mask.select(other, 0)
    return mask


def _sizes(mask: Tensor, largest: Sequence[int], form: FieldFormat) -> Tensor:
    """The shape of each row, int64 [tasks, dimensions]."""
    lengths = mask.sum(dim=1)
    sizes = zip(form.shape, largest, strict=True)
    return torch.stack([lengths if size is None else torch.full_like(lengths, have) for size, have in sizes], dim=1)
