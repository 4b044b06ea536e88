"""Every call with what nobody should give it: one line that says what is wrong, at once, and the peer lives on."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import scatterzmq
from scatterzmq.errors import ScatterError

NONSENSE: list[Any] = [
    *(None, True, 5, -1, 2.5, float("nan"), "", "x", "a b", "\0", "\ud800", "x" * 1000, b"x"),
    *([], [None], {}, {1: 2}, {"x": 1}, object(), 1e300),
]

Calls = dict[str, Callable[[Any, Any], Any]]

CALLS: Calls = {
    "enqueue_task": lambda client, wrong: client.enqueue_task(wrong, {"value": [1]}),
    "fields": lambda client, wrong: client.enqueue_task("main", wrong),
    "field": lambda client, wrong: client.enqueue_task("main", {"value": wrong}),
    "submit": lambda client, wrong: client.submit(wrong, value=[1]),
    "submit, field": lambda client, wrong: client.submit("main", value=wrong),
    "load_graph": lambda client, wrong: client.load_graph(wrong),
    "get_namespace": lambda client, wrong: client.get_namespace(wrong),
    "get_status": lambda client, wrong: client.get_status(wrong),
    "get_result": lambda client, wrong: client.get_result(wrong),
    "get_response": lambda client, wrong: client.get_response(wrong),
    "clear_task": lambda client, wrong: client.clear_task(wrong),
    "cancel": lambda client, wrong: client.cancel(wrong),
    "entry_graph_name": lambda client, wrong: client.entry_graph_name(wrong),
    "main_inputs": lambda client, wrong: client.main_inputs(wrong),
    "main_outputs": lambda client, wrong: client.main_outputs(wrong),
    "output_format": lambda client, wrong: client.output_format(wrong, "value"),
    "output_format, field": lambda client, wrong: client.output_format("main", wrong),
    "graph_to_json": lambda client, wrong: client.graph_to_json(wrong),
}
"""Where nothing of that is right."""

SOME_RIGHT: Calls = {
    "task_id": lambda client, wrong: client.enqueue_task("main", {"value": [1]}, task_id=wrong),
    "wait_for": lambda client, wrong: client.wait_for(wrong),
    "timeout": lambda client, wrong: client.wait_for([], timeout=wrong),
    "map": lambda client, wrong: client.map("main", wrong),
    "window": lambda client, wrong: client.map("main", [], window=wrong),
    "map, namespace": lambda client, wrong: client.map(wrong, []),
    "flush": lambda client, wrong: client.flush(timeout=wrong),
    "clear_cache": lambda client, wrong: client.clear_cache(wrong),
    "open_blob": lambda client, wrong: client.open_blob(wrong),
}


@pytest.fixture(scope="module")
def client() -> Any:
    with scatterzmq.local(executors=1) as made:
        node = {"name": "n", "kind": "constant_op", "args": {"op": "add", "const": 1, "input": ["float", [1]]}}
        node |= {"vmap": {"value": ":value"}, "outs": {"out": None}}
        form = {"value": ["float", [1]]}
        graph = {"name": "main", "input": "n", "input_format": form, "output_format": form, "nodes": [node]}
        made.load_graph({"entry": "main", "graphs": [graph | {"vmap": {"value": "n:value"}}]})
        yield made


def is_alive(client: Any) -> bool:
    (((_, response),)) = client.wait_for([client.enqueue_task("main", {"value": [1.0]})], timeout=30)
    return bool(response.result["value"].tolist() == [2.0])


def told(call: Callable[..., Any], *arguments: Any) -> ScatterError | None:
    """What a call says, if it says anything. Whatever else it raises goes through."""
    try:
        found = call(*arguments)
        if hasattr(found, "__next__"):
            list(found)
    except ScatterError as error:
        return error
    return None


@pytest.mark.parametrize("name", CALLS)
def test_what_is_wrong_is_told_in_one_line(client: Any, name: str) -> None:
    for wrong in NONSENSE:
        error = told(CALLS[name], client, wrong)
        assert error is not None, wrong
        several = name == "load_graph" and isinstance(wrong, dict)  # all problems of a definition
        assert several or "\n" not in str(error), wrong
        assert len(str(error)) < 1300
    assert is_alive(client)


@pytest.mark.parametrize("name", SOME_RIGHT)
def test_and_nothing_else_comes_where_some_of_it_is_right(client: Any, name: str) -> None:
    errors = [told(SOME_RIGHT[name], client, wrong) for wrong in NONSENSE]
    lines = [str(error) for error in errors if error is not None]
    assert len(lines) >= 8
    assert not any("\n" in line for line in lines)
    assert is_alive(client)


def test_coroutines_say_the_same(client: Any) -> None:
    async def say(call: Callable[[Any, Any], Any], wrong: Any) -> str:
        found = call(scatterzmq.AsyncClient(client), wrong)
        try:
            if hasattr(found, "__anext__"):
                async for _ in found:
                    pass
            elif hasattr(found, "__await__"):
                await found
        except ScatterError as error:
            return str(error)
        return ""

    for name in ("enqueue_task", "submit", "get_status", "main_inputs", "clear_task"):
        for wrong in NONSENSE:
            assert asyncio.run(say(CALLS[name], wrong)) == str(told(CALLS[name], client, wrong))
    for name in ("map", "map, namespace", "wait_for", "timeout", "window", "clear_cache"):
        for wrong in (None, 5, object()):
            said = told(SOME_RIGHT[name], client, wrong)
            assert asyncio.run(say(SOME_RIGHT[name], wrong)) == (str(said) if said else "")
    assert is_alive(client)


def test_times_beyond_what_a_clock_can_wait_for_are_no_limit(client: Any) -> None:
    task = client.enqueue_task("main", {"value": [1.0]})
    assert [found for found, _ in client.wait_for([task], timeout=float("inf"))] == [task]
    assert [found for found, _ in client.wait_for([task], timeout=1e300)] == [task]
    client.flush(timeout=10**30)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"address": 5}, "connect: expected an address such as "),
        ({"address": [5]}, "connect: expected an address such as "),
        ({"address": "tcp://h", "cluster": 5}, "connect: cluster: expected the name of a cluster, got 5"),
        (
            {"address": "tcp://h", "cluster": "\ud800"},
            "connect: cluster: expected the name of a cluster, got '\\ud800'",
        ),
        ({"address": "tcp://h", "window": "x"}, "connect: window: expected at least 1, got 'x'"),
        ({"address": "tcp://h", "timeout_s": None}, "connect: timeout_s: expected seconds, got None"),
        ({"address": "tcp://h", "timeout_s": float("nan")}, "connect: timeout_s: expected seconds, got nan"),
    ],
)
def test_connecting_with_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    error = told(lambda: scatterzmq.connect(**arguments))
    assert str(error).startswith(message)
