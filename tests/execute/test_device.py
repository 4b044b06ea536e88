"""Which device a setting names, and that its memory is given back."""

import gc
from typing import Any

import pytest
import torch

from scatterzmq.errors import ConfigError
from scatterzmq.execute.device import parse_device, release_all_memory


def test_cpu() -> None:
    assert parse_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(
    "text", ["", "gpu", "cpu:0", "cuda:", "cuda:x", "cuda:-1", "cuda:²", "mps:0", "CPU", "cuda:0:1", "meta"]
)
def test_what_is_no_device(text: Any) -> None:
    with pytest.raises(ConfigError, match="expected cpu, cuda, cuda:N or mps"):
        parse_device(text)


def test_cuda_by_number(monkeypatch: Any) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert parse_device("cuda") == torch.device("cuda", 0)
    assert parse_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(ConfigError, match=r"'cuda:2' is not here, torch sees 2 CUDA devices"):
        parse_device("cuda:2")


def test_mps_where_there_is_none(monkeypatch: Any) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="'mps' is not here"):
        parse_device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert parse_device("mps") == torch.device("mps")


def test_memory_of_each_kind_of_device_is_given_back(monkeypatch: Any) -> None:
    emptied: list[str] = []
    collected: list[int] = []
    monkeypatch.setattr(gc, "collect", collected.append)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append("cuda"))
    monkeypatch.setattr(torch.mps, "empty_cache", lambda: emptied.append("mps"))
    for kind in ("cpu", "cuda", "mps"):
        release_all_memory(torch.device(kind), thorough=kind == "cpu")
    assert emptied == ["cuda", "mps"]
    assert collected == [2, 1, 1]
