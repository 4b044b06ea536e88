"""Kind `torch_class`: an installed module gets exactly its weights out of a file, and its fields as it wants them."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from scatterzmq.errors import BlobError, FormatError, GraphError, MissingBlob
from scatterzmq.execute.blobs import BlobStore
from scatterzmq.graph.nodeinfo import LackingHere
from scatterzmq.ids import TaskId
from scatterzmq.models.bert import BertLayers
from scatterzmq.nodes import Batch, NodeArgs, Resources
from scatterzmq.nodes.skeleton import build
from scatterzmq.nodes.torch_class import TorchClass
from scatterzmq.wire.tensors import from_tensors, to_tensors

PROBES = """
import torch
from torch import nn


class Affine(nn.Module):
    def __init__(self, size=3):
        super().__init__()
        self.layer = nn.Linear(size, size)
        self.scale = nn.Parameter(torch.ones(size))
        self.register_buffer("table", torch.arange(size) * 10.0, persistent=False)
        self.drop = nn.Dropout(0.5)

    def forward(self, value):
        assert not torch.is_grad_enabled()
        return self.drop(self.layer(value) * self.scale + self.table)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(2, 2, bias=False)
        self.second = nn.Linear(2, 2, bias=False)
        self.second.weight = self.first.weight

    def forward(self, value):
        return self.second(self.first(value))


class Hollow(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("table", torch.empty(3), persistent=False)

    def forward(self, value):
        return value


class Masked(nn.Module):
    def forward(self, value, mask, other=None):
        assert mask.dtype == torch.bool and mask.shape == value.shape[:2]
        return {"length": mask.sum(1).float(), "value": torch.where(mask[..., None], value + 1, 99.0)}


class Halves(nn.Module):
    def forward(self, value):
        return value[:, :1], value[:, 1:]


class Wrong(nn.Module):
    def forward(self, value):
        return None


not_a_class = 3
"""

HIDDEN = ["float", [None, 8]]


@pytest.fixture(autouse=True)
def probes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module that the settings allow: `probe_pack.probes`, and one that they do not: `probe_packed`."""
    (tmp_path / "probe_pack").mkdir()
    (tmp_path / "probe_pack" / "__init__.py").write_text("")
    (tmp_path / "probe_pack" / "probes.py").write_text(PROBES)
    (tmp_path / "probe_packed.py").write_text(PROBES)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in [name for name in sys.modules if name.startswith("probe_pack")]:
        del sys.modules[name]


@pytest.fixture
def blobs(tmp_path: Path) -> Iterator[BlobStore]:
    with BlobStore(tmp_path / "blobs") as store:
        (tmp_path / "blobs").mkdir()
        yield store


@pytest.fixture
def save(tmp_path: Path, blobs: BlobStore) -> Callable[[Mapping[str, Tensor]], str]:
    def write(tensors: Mapping[str, Tensor]) -> str:
        save_file(dict(tensors), tmp_path / "blobs" / "model.safetensors")
        return "model.safetensors"

    return write


@pytest.fixture
def loaded(blobs: BlobStore) -> Callable[..., TorchClass]:
    def make(name: str, **args: object) -> TorchClass:
        node = made(name, **args)
        node.load(Resources(blobs=blobs, make_scratch=Path, device=torch.device("cpu"), memory={}))
        return node

    return make


def made(name: str, **args: object) -> TorchClass:
    formats = {"inputs": {"value": ["float", [3]]}, "outputs": {"value": ["float", [3]]}}
    path = name if "." in name else f"probe_pack.probes.{name}"
    return TorchClass(NodeArgs({"class": path, **formats, **args}, "ns", "ns:main:stage", ("probe_pack",)))


def layers(loaded: Callable[..., TorchClass], **args: object) -> TorchClass:
    init = {"first": 1, "last": 2, "hidden_size": 8, "heads": 2, "intermediate_size": 12}
    formats = {"inputs": {"hidden": HIDDEN}, "outputs": {"hidden": HIDDEN}, "padded": True}
    given = {"init": init, "weights": "model.safetensors", "prefix": "encoder.layer.", **formats, **args}
    return loaded("scatterzmq.models.bert.BertLayers", **given)


def whole_model() -> BertLayers:
    generator = torch.Generator().manual_seed(3)
    module = BertLayers(first=0, last=3, hidden_size=8, heads=2, intermediate_size=12).eval().requires_grad_(False)
    for tensor in module.parameters():
        tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return module


def stored(module: torch.nn.Module, prefix: str = "") -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in module.state_dict().items()}


def run(node: TorchClass, **fields: Sequence[Tensor]) -> dict[str, list[Tensor]]:
    count = len(next(iter(fields.values())))
    batch = Batch(
        place="ns:main:stage",
        task_ids=[TaskId(f"T{row:032x}") for row in range(count)],
        inputs=node.inputs(),
        outputs=node.outputs(),
        columns={name: from_tensors(rows) for name, rows in fields.items()},
    )
    node.execute(batch)
    (answer,), rejections = batch.finish()
    assert not rejections
    return {name: to_tensors(column) for name, column in answer.columns.items()}


AFFINE = {
    "layer.weight": torch.tensor([[1.0, 0, 0], [0, 2, 0], [0, 0, 3]]),
    "layer.bias": torch.tensor([0.0, 0, 1]),
    "scale": torch.tensor([1.0, 1, 2]),
}


# ---- weights


def test_weights_come_from_the_file_and_the_module_evaluates(
    loaded: Callable[..., TorchClass], save: Callable[[Mapping[str, Tensor]], str]
) -> None:
    node = loaded("Affine", weights=save(AFFINE))
    assert run(node, value=[torch.ones(3), torch.zeros(3)])["value"][0].tolist() == [1, 2 + 10, 8 + 20]


def test_a_stage_holds_its_own_layers_and_computes_what_the_whole_does(
    loaded: Callable[..., TorchClass], save: Callable[[Mapping[str, Tensor]], str]
) -> None:
    whole = whole_model()
    save(stored(whole, "encoder.layer.") | {"embeddings.weight": torch.zeros(100, 8)})
    node = layers(loaded)
    expected_nbytes = sum(t.nbytes for name, t in whole.state_dict().items() if name[0] in "12")
    assert node.held_nbytes() == expected_nbytes == node.load_cost()
    rows = [torch.randn(length, 8) for length in (4, 1, 3)]
    part = whole
    for got, row in zip(run(node, hidden=rows)["hidden"], rows, strict=True):
        hidden, mask = row[None], torch.ones(1, len(row), dtype=torch.bool)
        for name in ("1", "2"):
            hidden = part.get_submodule(name)(hidden, mask[:, None, None])
        torch.testing.assert_close(got, hidden[0], atol=1e-6, rtol=1e-6)


def test_weights_are_mapped_not_copied(
    loaded: Callable[..., TorchClass], save: Callable[[Mapping[str, Tensor]], str], tmp_path: Path
) -> None:
    save(stored(whole_model(), "encoder.layer."))
    node = layers(loaded)
    assert node._module is not None
    with Path("/proc/self/maps").open() as lines:
        spans = [line.split()[0].split("-") for line in lines if line.rstrip().endswith("blobs/model.safetensors")]
    spans_at = [(int(start, 16), int(end, 16)) for start, end in spans]
    for name, tensor in node._module.state_dict().items():
        assert any(start <= tensor.data_ptr() < end for start, end in spans_at), name


def test_unloading_lets_go_of_the_weights(
    loaded: Callable[..., TorchClass], save: Callable[[Mapping[str, Tensor]], str]
) -> None:
    node = loaded("Affine", weights=save(AFFINE))
    node.unload()
    assert node.held_nbytes() == 0


def test_names_are_made_of_rename_and_prefix(
    loaded: Callable[..., TorchClass], save: Callable[[Mapping[str, Tensor]], str]
) -> None:
    save({"m.fc.weight": AFFINE["layer.weight"], "m.fc.b": AFFINE["layer.bias"], "m.gain": AFFINE["scale"]})
    rename = {"layer.": "fc.", "layer.bias": "fc.b", "scale": "gain"}
    node = loaded("Affine", weights="model.safetensors", prefix="m.", rename=rename)
    assert run(node, value=[torch.ones(3)])["value"][0].tolist() == [1, 12, 28]


def test_missing_tensors_are_named(
    loaded: Callable[..., TorchClass], save: Callable[[Mapping[str, Tensor]], str]
) -> None:
    save({"scale": AFFINE["scale"]})
    with pytest.raises(
        MissingBlob, match=r"weights of Affine in 'model.safetensors': tensors .*layer.weight.* missing"
    ):
        loaded("Affine", weights="model.safetensors")
    with pytest.raises(MissingBlob, match=r"m\.layer\.weight, m\.layer\.bias|m\.scale"):
        loaded("Affine", weights="model.safetensors", prefix="m.")


def test_tensors_that_a_layer_does_not_know_are_named(
    loaded: Callable[..., TorchClass], save: Callable[[Mapping[str, Tensor]], str]
) -> None:
    save(AFFINE | {"layer.adapter": torch.zeros(2), "other.weight": torch.zeros(2)})
    with pytest.raises(BlobError, match=r"tensors layer\.adapter are not in the class"):
        loaded("Affine", weights="model.safetensors")


def test_a_layer_with_ten_more_is_not_taken_for_it(
    loaded: Callable[..., TorchClass], save: Callable[[Mapping[str, Tensor]], str]
) -> None:
    save(stored(whole_model(), "encoder.layer.") | {"encoder.layer.10.weight": torch.zeros(2)})
    assert layers(loaded).held_nbytes() > 0


def test_shapes_must_agree(loaded: Callable[..., TorchClass], save: Callable[[Mapping[str, Tensor]], str]) -> None:
    save(AFFINE | {"scale": torch.ones(4)})
    with pytest.raises(BlobError, match=r"tensor 'scale' has shape \[4\], the class needs \[3\]"):
        loaded("Affine", weights="model.safetensors")


def test_tied_weights_are_stored_and_held_once(
    loaded: Callable[..., TorchClass], save: Callable[[Mapping[str, Tensor]], str]
) -> None:
    save({"second.weight": torch.tensor([[0.0, 2.0], [1.0, 0.0]])})
    formats = {"inputs": {"value": ["float", [2]]}, "outputs": {"value": ["float", [2]]}}
    node = loaded("Tied", weights="model.safetensors", **formats)
    assert node.load_cost() == 16
    assert run(node, value=[torch.tensor([1.0, 2.0])])["value"][0].tolist() == [2, 4]
    assert node._module is not None
    assert len({tensor.data_ptr() for tensor in node._module.state_dict().values()}) == 1


def test_the_file_decides_the_dtype_of_weights(
    loaded: Callable[..., TorchClass], save: Callable[[Mapping[str, Tensor]], str]
) -> None:
    save({name: tensor.double() for name, tensor in AFFINE.items()})
    formats = {"inputs": {"value": ["double", [3]]}, "outputs": {"value": ["double", [3]]}}
    node = loaded("Affine", weights="model.safetensors", **formats)
    assert run(node, value=[torch.ones(3).double()])["value"][0].tolist() == [1, 12, 28]


def test_buffers_without_values_are_an_error(
    loaded: Callable[..., TorchClass], save: Callable[[Mapping[str, Tensor]], str]
) -> None:
    with pytest.raises(GraphError, match="'weights' is missing: Hollow needs table"):
        loaded("Hollow")
    with pytest.raises(BlobError, match="Hollow leaves table without values"):
        loaded("Hollow", weights=save(AFFINE))


def test_a_missing_file_is_a_missing_blob(loaded: Callable[..., TorchClass]) -> None:
    with pytest.raises(MissingBlob, match=r"'none\.safetensors' is not there"):
        loaded("Affine", weights="none.safetensors")


# ---- building


def test_building_makes_no_weights_and_does_not_touch_the_random_state() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    before = set(sys.modules)
    module = build(torch.nn.Embedding, {"num_embeddings": 1 << 40, "embedding_dim": 384, "padding_idx": 0})
    assert module.weight.shape == (1 << 40, 384)
    assert torch.equal(torch.rand(3), expected)
    assert set(sys.modules) == before
    assert torch.nn.Linear(2, 2).weight.device.type == "cpu"


@pytest.mark.parametrize(
    "name", ["normal_", "trunc_normal_", "xavier_uniform_", "kaiming_normal_", "constant_", "zeros_"]
)
def test_filling_a_weight_without_memory_does_nothing(name: str) -> None:
    class Filled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.empty(4, 4))
            arguments = [1.0] if name == "constant_" else []
            getattr(torch.nn.init, name)(self.weight, *arguments)

    weight = build(Filled, {}).weight
    assert isinstance(weight, Tensor)
    assert weight.is_meta


# ---- fields


def test_padded_fields_come_with_their_mask_and_go_back_at_their_lengths(loaded: Callable[..., TorchClass]) -> None:
    outputs = {"value": ["float", [None, 2]], "length": ["float", []]}
    node = loaded("Masked", padded=True, inputs={"value": ["float", [None, 2]]}, outputs=outputs)
    rows = [torch.rand(length, 2) for length in (1, 3, 0)]
    got = run(node, value=rows)
    assert [length.item() for length in got["length"]] == [1, 3, 0]
    for back, row in zip(got["value"], rows, strict=True):
        assert torch.equal(back, row + 1)


def test_padded_fields_of_equal_length_are_no_special_case(loaded: Callable[..., TorchClass]) -> None:
    outputs = {"value": ["float", [None, 2]], "length": ["float", []]}
    node = loaded("Masked", padded=True, inputs={"value": ["float", [None, 2]]}, outputs=outputs)
    got = run(node, value=[torch.zeros(2, 2), torch.ones(2, 2)])
    assert torch.equal(torch.stack(got["value"]), torch.stack([torch.ones(2, 2), torch.full((2, 2), 2.0)]))


def test_padded_fields_must_agree_in_length(loaded: Callable[..., TorchClass]) -> None:
    outputs = {"value": ["float", [None, 2]], "length": ["float", []]}
    inputs = {"value": ["float", [None, 2]], "other": ["float", [None]]}
    node = loaded("Masked", padded=True, inputs=inputs, outputs=outputs)
    run(node, value=[torch.zeros(2, 2), torch.ones(1, 2)], other=[torch.zeros(2), torch.zeros(1)])
    with pytest.raises(ValueError, match="inputs value and other of a task differ in length"):
        run(node, value=[torch.zeros(2, 2), torch.ones(1, 2)], other=[torch.zeros(2), torch.zeros(2)])


def test_several_outputs_may_be_a_tuple(loaded: Callable[..., TorchClass]) -> None:
    node = loaded("Halves", outputs={"head": ["float", [1]], "tail": ["float", [2]]})
    got = run(node, value=[torch.arange(3.0)])
    assert [got["head"][0].tolist(), got["tail"][0].tolist()] == [[0], [1, 2]]
    node = loaded("Halves", outputs={"head": ["float", [1]]})
    with pytest.raises(TypeError, match="Halves must return one tensor for each of head"):
        run(node, value=[torch.arange(3.0)])


def test_what_is_returned_must_be_tensors_of_the_format(loaded: Callable[..., TorchClass]) -> None:
    with pytest.raises(TypeError, match="Wrong must return one tensor for each of value"):
        run(loaded("Wrong"), value=[torch.arange(3.0)])
    padded = {"padded": True, "inputs": {"value": ["float", [None, 2]]}}
    node = loaded("Masked", **padded, outputs={"value": ["float", [None]], "length": ["float", []]})
    with pytest.raises(FormatError, match="field 'value'"):
        run(node, value=[torch.zeros(2, 2)])


# ---- what is checked when the graph is loaded


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "torch.nn.Linear",
        "probe_packed.Affine",
        "probe_pac.probes.Affine",
        "scatterzmq.nodes.torch_class.TorchClass",
        "scatterzmq.models_extra.Thing",
    ],
)
def test_only_allowed_modules_are_imported(name: str) -> None:
    before = set(sys.modules)
    with pytest.raises(LackingHere, match=r"'class': expected a class below scatterzmq\.models or in a module that"):
        made(name)
    assert set(sys.modules) == before


@pytest.mark.parametrize(
    "name", ["Affine.", ".Affine", "scatterzmq.models..bert.X", "scatterzmq.models./tmp/x.X", "a.b-c"]
)
def test_a_class_is_a_qualified_name(name: str) -> None:
    with pytest.raises(GraphError, match=r"'class': expected the qualified name of a class"):
        made(name if name.startswith("scatterzmq") else f"probe_pack.{name}")


@pytest.mark.parametrize("name", ["not_a_class", "nothing", "torch"])
def test_only_torch_modules_are_nodes(name: str) -> None:
    with pytest.raises(GraphError, match=r"'class': expected the qualified name of a torch\.nn\.Module"):
        made(name)


@pytest.mark.parametrize(
    ("args", "why"),
    [
        ({"init": {"sise": 3}}, r"'init': expected arguments of Affine.*unexpected keyword argument 'sise'"),
        ({"init": [3]}, "'init': expected an object"),
        ({"rename": {"a": 3}}, "'rename': expected beginnings of names"),
        ({"inputs": {"value": ["float", [None]]}}, "'inputs': expected fixed shapes, or padded = true for value"),
        ({"outputs": {"value": ["float", [None]]}}, "'outputs': expected fixed shapes; open ones need padded inputs"),
        ({"padded": True}, "'inputs': expected a field with an open dimension"),
        ({"padded": True, "inputs": {"mask": ["float", [None]]}}, "none called mask"),
        (
            {"padded": True, "inputs": {"value": ["float", [None, None]]}},
            "'inputs': expected at most one open dimension",
        ),
        ({}, r"argument 'weights' is missing: Affine needs layer\.weight, layer\.bias"),
    ],
)
def test_arguments_are_checked(args: dict[str, object], why: str) -> None:
    with pytest.raises(GraphError, match=why):
        made("Affine", **args)


def test_purity_can_be_denied() -> None:
    assert made("Halves").pure
    assert not made("Halves", pure=False).pure
