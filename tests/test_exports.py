"""The public names, and what importing them costs."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import scatterzmq

ROOT = Path(__file__).parent.parent

PUBLIC = {
    "AsyncClient",
    "BlobError",
    "Client",
    "ClusterError",
    "ConfigError",
    "ErrorCode",
    "ErrorContext",
    "ErrorInfo",
    "FormatError",
    "GraphError",
    "MissingBlob",
    "Response",
    "ScatterError",
    "TaskError",
    "TaskId",
    "TaskStatus",
    "Timeout",
    "connect",
    "errors",
    "local",
}


def fresh(code: str) -> str:
    """What the code prints in an interpreter of its own."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout


def test_the_public_names_are_these_and_no_others() -> None:
    assert set(scatterzmq.__all__) == PUBLIC
    assert len(scatterzmq.__all__) == len(PUBLIC)
    assert set(dir(scatterzmq)) == PUBLIC


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_each_public_name_leads_to_something(name: str) -> None:
    thing = getattr(scatterzmq, name)
    assert thing is getattr(scatterzmq, name)
    assert getattr(thing, "__name__", None) in {name, f"scatterzmq.{name}"}


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'scatterzmq' has no attribute 'nonsense'"):
        _ = scatterzmq.nonsense


def test_every_error_is_of_the_one_family() -> None:
    kinds = (
        "BlobError",
        "ClusterError",
        "ConfigError",
        "FormatError",
        "GraphError",
        "MissingBlob",
        "TaskError",
        "Timeout",
    )
    for name in kinds:
        assert issubclass(getattr(scatterzmq.errors, name), scatterzmq.ScatterError)
        assert getattr(scatterzmq, name) is getattr(scatterzmq.errors, name)


def test_the_version_is_the_one_of_the_project_file() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        assert scatterzmq.__version__ == tomllib.load(file)["project"]["version"]


def test_importing_loads_no_heavy_library() -> None:
    heavy = {"torch", "numpy", "msgpack", "rich", "asyncio", "argparse", "zmq"}
    loaded = set(fresh("import sys, scatterzmq; print(*sys.modules)").split())
    assert "scatterzmq" in loaded
    assert not loaded & heavy


def test_the_client_can_be_imported_without_torch() -> None:
    assert fresh("import sys, scatterzmq; scatterzmq.Client; print('torch' in sys.modules)").strip() == "False"


def test_importing_takes_less_than_three_tenths_of_a_second() -> None:
    code = "import time; import scatterzmq; print(time.process_time())"
    assert min(float(fresh(code)) for _ in range(3)) < 0.3


def test_loading_a_name_leaves_garbage_collection_as_it_was() -> None:
    program = (
        "import gc, scatterzmq as s; s.TaskId; assert gc.isenabled(); gc.disable(); s.Client; assert not gc.isenabled()"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
