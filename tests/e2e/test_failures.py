"""What goes wrong in a node: who fails, how often it is tried, and what a user is told."""

from typing import Any

import pytest
import torch

from scatterzmq import ErrorInfo, TaskError

TASKS = 20
core = pytest.mark.parametrize("executors", [1, 2, 3])
batches = pytest.mark.parametrize("batch_size", [1, 5, 20, 50])
ONE = {"value": ["float", [1]]}
FLAG = ["bool", [1]]

PICKY = """
    attempts = {}

    class Picky(Node):
        def inputs(self):
            return {"value": FieldFormat("float", (1,))}

        def outputs(self):
            return {"out": {"value": FieldFormat("float", (1,))}}

        def execute(self, batch):
            values = batch.uniform("value")
            for task in batch.task_ids:
                attempts[task] = attempts.get(task, 0) + 1
            self.check(batch, values)
            batch.emit("out", value=values * 2)
"""


@pytest.fixture(params=[1, 2], ids="peers={}".format)
def peers(request: Any) -> Any:
    return request.param


@pytest.fixture
def checked(build: Any) -> Any:
    """The entry graph passes what is true and fails the rest in `refuse`."""
    nodes = [
        build.node("check", "if_op", {"condition": ":value"}, {"then": None, "else": "refuse"}),
        build.node("refuse", "assertion_error", {}, {}, {"msg": "this one is false"}),
    ]
    return build.graphs(build.graph("main", {"value": FLAG}, {"value": FLAG}, {"value": ":value"}, nodes))


@core
@batches
def test_an_assertion_fails_its_tasks_after_all_retries_and_no_others(
    start: Any, checked: Any, finish: Any, batch_size: int, executors: int
) -> None:
    client = start(batch_size=batch_size, executors=executors)
    ns = client.load_graph(checked)
    answers = [index % 3 > 0 for index in range(TASKS)]
    tasks = [client.enqueue_task(ns, {"value": [answer]}) for answer in answers]
    for (task, response), answer in zip(finish(client, tasks).items(), answers, strict=True):
        if answer:
            response.ok()
            assert (response.status, response.retries, response.error) == ("ready", 0, None)
            assert response.result["value"].tolist() == [True]
        else:
            assert (response.status, response.ns, response.result, response.retries) == ("error", ns, None, 10)
            check_error(response.error, task)
            with pytest.raises(TaskError, match="this one is false") as raised:
                response.ok()
            assert (raised.value.task, raised.value.error) == (task, response.error)
            assert client.get_status(task) == "error"
        client.clear_task(task)
        assert (client.get_namespace(task), client.get_status(task), client.get_result(task)) == (None, "unknown", None)


def check_error(error: ErrorInfo, task: str) -> None:
    assert (error.code, error.message) == ("general_exception", "this one is false")
    assert error.traceback.startswith("Traceback")
    assert error.traceback.rstrip().endswith("ValueError: this one is false")
    context = error.context
    assert (context.task, context.graph, context.node) == (task, "main:main", "refuse")
    assert context.executor is not None
    assert context.executor.startswith("E")


@pytest.mark.parametrize(("setting", "of_graph", "expected"), [(0, None, 0), (3, None, 3), (3, 1, 1), (0, 2, 2)])
def test_how_often_is_tried_again(
    start: Any, checked: Any, finish: Any, setting: int, of_graph: int | None, expected: int
) -> None:
    """A graph's own number counts more than the setting."""
    client = start(max_retries=setting)
    if of_graph is not None:
        checked["graphs"][0]["max_retries"] = of_graph
    ns = client.load_graph(checked)
    (response,) = finish(client, [client.enqueue_task(ns, {"value": [False]})]).values()
    assert (response.status, response.retries) == ("error", expected)


@batches
def test_a_node_that_raises_fails_the_guilty_only(
    start: Any, build: Any, plugin: Any, finish: Any, batch_size: int
) -> None:
    """Their neighbours in the batch are not even tried again."""
    module = plugin(
        PICKY
        + """
        def check(self, batch, values):
            if (values < 0).any():
                raise RuntimeError(f"cannot stand {values.min().item():g}")
    """
    )
    client = start(batch_size=batch_size, max_retries=2, plugins=[module.__name__])
    ns = client.load_graph(build.graphs(build.line([1], module.__name__)))
    values = [-index if index in {3, 4, 17} else index for index in range(TASKS)]
    tasks = [client.enqueue_task(ns, {"value": [value]}) for value in values]
    for response, value in zip(finish(client, tasks).values(), values, strict=True):
        if value < 0:
            assert (response.status, response.retries) == ("error", 2)
            assert response.error.code == "general_exception"
            assert response.error.message == f"RuntimeError: cannot stand {value}"
            assert "node_0.py" in response.error.traceback
            assert "in check" in response.error.traceback
        else:
            assert (response.status, response.retries, response.error) == ("ready", 0, None)
            assert response.result["value"].item() == 2 * value


def test_a_later_try_that_works_still_tells_what_went_wrong(start: Any, build: Any, plugin: Any, finish: Any) -> None:
    module = plugin(
        PICKY
        + """
        def check(self, batch, values):
            for row, task in enumerate(batch.task_ids):
                if attempts[task] <= 2 * len(batch) and values[row] == 1:
                    raise OSError("not yet")
    """
    )
    client = start(batch_size=1, plugins=[module.__name__])
    ns = client.load_graph(build.graphs(build.line([1], module.__name__)))
    tasks = [client.enqueue_task(ns, {"value": [value]}) for value in (0, 1)]
    well, tried = finish(client, tasks).values()
    assert (well.status, well.retries, well.error) == ("ready", 0, None)
    assert (tried.status, tried.retries) == ("ready", 2)
    assert tried.error is not None
    assert tried.error.message == "OSError: not yet"
    tried.ok()
    assert tried.result["value"].item() == 2


def test_rejected_rows_fail_alone_with_their_code(start: Any, build: Any, plugin: Any, finish: Any) -> None:
    module = plugin("""
        class Judge(Node):
            def inputs(self):
                return {"value": FieldFormat("float", (1,))}

            def outputs(self):
                return {"out": {"value": FieldFormat("float", (1,))}}

            def execute(self, batch):
                values = batch.uniform("value")[:, 0].tolist()
                batch.emit("out", [row for row, value in enumerate(values) if value < 10], value=torch.tensor(
                    [[value] for value in values if value < 10]).view(-1, 1))
                for row, value in enumerate(values):
                    if value == 10:
                        batch.reject(row, "once more, please")
                    elif value == 11:
                        batch.reject(row, "never", final=True)
                    elif value == 12:
                        batch.reject(row, "too big", code="out_of_memory")
                    elif value == 13:
                        batch.reject(row, "no such file", code="missing_blob")
    """)
    client = start(max_retries=4, plugins=[module.__name__])
    ns = client.load_graph(build.graphs(build.line([1], module.__name__)))
    tasks = [client.enqueue_task(ns, {"value": [value]}) for value in range(14)]
    responses = list(finish(client, tasks).values())
    assert [response.result["value"].item() for response in responses[:10]] == list(range(10))
    found = [(response.error.code, response.error.message, response.retries) for response in responses[10:]]
    assert found == [
        ("general_exception", "once more, please", 4),
        ("general_exception", "never", 0),
        ("out_of_memory", "too big", 4),
        ("missing_blob", "no such file", 0),
    ]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("pass", "on none of its outputs"),
        ("batch.emit('out', [], value=batch.uniform('value')[:0])", "on none of its outputs"),
        ("batch.emit('out', value=batch.uniform('value')); batch.reject(0, 'too')", "answered before"),
        ("batch.reject(len(batch), 'nobody')", "there is no row"),
        ("batch.emit('out', value=batch.uniform('value')[1:])", "rows"),
        ("batch.emit('out', value=batch.uniform('value').double())", "expected float"),
        ("batch.emit('out', value=torch.zeros(len(batch), 2))", "expected float"),
        ("batch.emit('elsewhere', value=batch.uniform('value'))", "no output 'elsewhere'"),
        ("batch.emit('out')", "missing: value"),
        ("batch.call('out', 'main', value=batch.uniform('value'))", "calls graph 'main'"),
        ("batch.uniform('value').add_(1); batch.emit('out', value=batch.uniform('value'))", "read-only"),
        ("batch.uniform('other')", "no input 'other'"),
        ("raise SystemExit(3)", "SystemExit"),
        ("raise MemoryError", "MemoryError"),
    ],
)
def test_a_node_that_breaks_its_contract_is_told_so(
    start: Any, build: Any, plugin: Any, finish: Any, body: str, message: str
) -> None:
    """The neighbours at other nodes do not notice."""
    module = plugin(f"""
        class Wrong(Node):
            def inputs(self):
                return {{"value": FieldFormat("float", (1,))}}

            def outputs(self):
                return {{"out": {{"value": FieldFormat("float", (1,))}}}}

            def execute(self, batch):
                {body}
    """)
    client = start(max_retries=1, plugins=[module.__name__])
    wrong = client.load_graph(build.graphs(build.line([1], module.__name__), ns="wrong"))
    good = client.load_graph(build.graphs(build.line([1], ("add", 1)), ns="good"))
    tasks = [client.enqueue_task(ns, {"value": [index]}) for index in range(3) for ns in (wrong, good)]
    for index, response in enumerate(finish(client, tasks).values()):
        if index % 2:
            assert (response.status, response.retries) == ("ready", 0)
        else:
            assert (response.status, response.retries) == ("error", 1)
            assert message in response.error.message


def test_a_node_that_cannot_be_loaded_fails_its_tasks(start: Any, build: Any, plugin: Any, finish: Any) -> None:
    module = plugin("""
        class Heavy(Node):
            def inputs(self):
                return {"value": FieldFormat("float", (1,))}

            def outputs(self):
                return {"out": {"value": FieldFormat("float", (1,))}}

            def load(self, resources):
                raise OSError("the file is damaged")

            def execute(self, batch):
                raise AssertionError
    """)
    client = start(max_retries=2, plugins=[module.__name__])
    ns = client.load_graph(build.graphs(build.line([1], module.__name__)))
    tasks = [client.enqueue_task(ns, {"value": [index]}) for index in range(5)]
    for response in finish(client, tasks).values():
        assert (response.status, response.error.code, response.retries) == ("error", "general_exception", 2)
        assert response.error.message == "main:main:s0 cannot be loaded: OSError: the file is damaged"


def test_a_way_that_lacks_a_result_fails_the_tasks_that_took_it(start: Any, build: Any, finish: Any) -> None:
    """A graph that is not wrong for all tasks is only warned about; those that miss the field learn which."""
    add = {"op": "add", "const": 1, "input": ["float", [1]]}
    nodes = [
        build.node("which", "if_op", {"condition": ":flag"}, {"then": "plus", "else": None}),
        build.node("plus", "constant_op", {"value": ":value"}, None, add),
    ]
    graph = build.graph("main", {"flag": FLAG, **ONE}, ONE, {"value": "plus:value"}, nodes)
    client = start(max_retries=0)
    ns = client.load_graph(build.graphs(graph))
    tasks = [client.enqueue_task(ns, {"flag": [flag], "value": [5]}) for flag in (True, False)]
    there, missing = finish(client, tasks).values()
    assert there.result["value"].item() == 6
    assert missing.status == "error"
    assert "plus:value" in missing.error.message


def test_null_into_a_fixed_size_is_checked_per_task(start: Any, build: Any, finish: Any) -> None:
    """float[null] into float[2]: the tasks of another length fail, also as the result of the graph."""
    anything, two = ["float", [None]], ["float", [2]]
    add = {"op": "add", "const": 1, "input": two}
    nodes = [build.node("plus", "constant_op", {"value": ":value"}, None, add)]
    client = start(max_retries=1)
    ns = client.load_graph(
        build.graphs(build.graph("main", {"value": anything}, {"value": two}, {"value": "plus:value"}, nodes))
    )
    tasks = [client.enqueue(ns, {"value": torch.ones(index % 4)}) for index in range(TASKS)]
    for index, response in enumerate(finish(client, tasks).values()):
        if index % 4 == 2:
            assert (response.result["value"].tolist(), response.retries) == ([2, 2], 0)
        else:
            assert response.status == "error"
            assert "expected float[2]" in response.error.message
