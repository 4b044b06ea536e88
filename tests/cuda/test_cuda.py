"""Nodes on a CUDA device: the results are those of a CPU, weights go there and leave it, and its memory runs out."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import scatterzmq
from scatterzmq.models.bert import BertLayers

TASKS = 200
TIMEOUT_S = 120.0
"""Only matters when something is wrong; a process takes seconds until it can use its device."""

HIDDEN = {"hidden": ["float32", [None, 32]]}
INIT = {"first": 0, "last": 1, "hidden_size": 32, "heads": 4, "intermediate_size": 64}


def alone(kind: str, args: Any, inputs: Any, outputs: Any, **keys: Any) -> dict[str, Any]:
    """A graph of one node."""
    node = {"name": "only", "kind": kind, "args": args, "outs": {"out": None}, **keys}
    node["vmap"] = {name: f":{name}" for name in inputs}
    ends = {name: f"only:{name}" for name in outputs}
    formats = {"input_format": inputs, "output_format": outputs}
    return {"entry": "main", "graphs": [{"name": "main", "input": "only", "vmap": ends, "nodes": [node], **formats}]}


def hungry(nbytes: int, *, nap_s: float = 0.0) -> dict[str, Any]:
    number = ["int64", []]
    outputs = {"value": number, "together": number, "pid": number}
    return alone("tests.cuda.nodes", {"bytes": nbytes, "nap_s": nap_s}, {"value": number}, outputs)


def encoder() -> dict[str, Any]:
    args = {
        "class": "scatterzmq.models.bert.BertLayers",
        "init": INIT,
        "weights": "layers.safetensors",
        "padded": True,
        "inputs": HIDDEN,
        "outputs": HIDDEN,
    }
    return alone("torch_class", args, HIDDEN, HIDDEN)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """The folder of a file with the weights of two layers."""
    torch.manual_seed(1)
    save_file(BertLayers(**INIT).state_dict(), tmp_path / "layers.safetensors")
    return tmp_path


def finish(client: scatterzmq.Client, tasks: list[scatterzmq.TaskId]) -> list[dict[str, int]]:
    """The results of all, in their order."""
    done = dict(client.wait_for(tasks, timeout=TIMEOUT_S))
    results = []
    for task in tasks:
        result = done[task].result
        assert result is not None, done[task]
        results.append({name: int(value) for name, value in result.items()})
    return results


def run(client: scatterzmq.Client, ns: str, values: range) -> list[dict[str, int]]:
    return finish(client, [client.enqueue_task(ns, {"value": value}) for value in values])


def test_a_model_gives_what_it_gives_on_a_cpu(weights: Path) -> None:
    texts = [{"hidden": torch.randn(length, 32)} for length in range(1, 40)]
    results = {}
    for device in ("cpu", "cuda"):
        with scatterzmq.local(device=device, blobs={"dir": str(weights)}) as client:
            results[device] = list(client.map(client.load_graph(encoder()), texts))
    for ours, theirs in zip(results["cuda"], results["cpu"], strict=True):
        assert ours["hidden"].device.type == "cpu", "clients need no such device"
        torch.testing.assert_close(ours["hidden"], theirs["hidden"], atol=1e-4, rtol=0)


def test_weights_are_on_the_device_and_leave_it(weights: Path) -> None:
    before = torch.cuda.memory_allocated()
    with scatterzmq.local(device="cuda", blobs={"dir": str(weights)}) as client:
        list(client.map(client.load_graph(encoder()), [{"hidden": torch.randn(3, 32)}]))
        held = torch.cuda.memory_allocated() - before
        assert held >= sum(value.nbytes for value in BertLayers(**INIT).state_dict().values())
    assert torch.cuda.memory_allocated() == before


def test_a_batch_that_is_too_big_for_the_device_is_halved() -> None:
    """Eight rows want more than all there is; two do not."""
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(0.1)
    try:
        with scatterzmq.local(device="cuda", batch_size=8, plugins=["tests.cuda"]) as client:
            results = run(client, client.load_graph(hungry(int(total * 0.1 / 3))), range(TASKS))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
    assert [result["value"] for result in results] == [value + 1 for value in range(TASKS)]
    assert {result["together"] for result in results} <= {1, 2}


def test_what_never_fits_the_device_is_an_error_and_others_go_on() -> None:
    total = torch.cuda.get_device_properties(0).total_memory
    with scatterzmq.local(device="cuda", max_retries=1, plugins=["tests.cuda"]) as client:
        task = client.enqueue_task(client.load_graph({"ns": "big", **hungry(2 * total)}), {"value": 1})
        response = dict(client.wait_for([task], timeout=TIMEOUT_S))[task]
        assert response.status == "error"
        assert response.error is not None
        assert response.error.code == "out_of_memory"
        assert run(client, client.load_graph({"ns": "small", **hungry(1)}), range(5, 6))[0]["value"] == 6


def test_processes_share_a_device_and_one_may_be_killed() -> None:
    with scatterzmq.local(peers=2, processes=True, device="cuda", batch_size=4, plugins=["tests.cuda"]) as client:
        ns = client.load_graph(hungry(1 << 20, nap_s=0.02))
        results: list[dict[str, int]] = []
        children: set[int] = set()
        deadline_s = time.monotonic() + TIMEOUT_S
        while len(children) < 2:
            assert time.monotonic() < deadline_s
            results += run(client, ns, range(len(results), len(results) + TASKS))
            children = {result["pid"] for result in results}
        assert os.getpid() not in children
        tasks = [client.enqueue_task(ns, {"value": len(results) + number}) for number in range(TASKS)]
        os.kill(min(children), signal.SIGKILL)
        results += finish(client, tasks)
    assert [result["value"] for result in results] == [value + 1 for value in range(len(results))]
