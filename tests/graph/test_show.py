from collections.abc import Callable
from typing import Any

from scatterzmq.graph.check import Checked
from scatterzmq.graph.show import show

Make = Callable[..., dict[str, Any]]
Check = Callable[[Any], Checked]


def test_a_definition_is_shown_as_a_tree(
    checked: Check, graph_set: Make, graph: Make, step: Make, caller: Make
) -> None:
    nodes = (step("a", ":value", "c", args={"const": 1}, batch_size=8), caller("c", "a:value", None, "inner"))
    main = graph("main", "c:value", *nodes, description="The\nentry.", max_retries=2)
    inner = graph("inner", "x:value", step("x", ":value", None, cache=True), is_block=True, cache=True)
    spare = graph("spare", "x:value", step("x", ":value", None, kind="noise"), {"name": "y", "kind": "fail"})
    text = show(checked(graph_set(main, inner, spare, ns="test")))
    assert text == TREE
    assert text.isascii()


TREE = """\
namespace test, entry graph main
+- graph main [entry, pure, max_retries 2]
|    The entry.
|    input: value float[2]
|    output: value float[2] <- c:value
|  +- node a (step) [start, batch_size 8]
|  |    A step.
|  |    args: const=1
|  |    in: value float[2] <- :value
|  |    out (value float[2]) -> c
|  +- node c (call)
|       A call.
|       args: graph="inner", args={"value": ["float", [2]]}, ret={"value": ["float", [2]]}
|       in: value float[2] <- a:value
|       calls: inner(value float[2]), back by out
|       out (value float[2]) -> end of the graph
+- graph inner [pure, cached, block]
|    input: value float[2]
|    output: value float[2] <- x:value
|  +- node x (step) [start, cached]
|       A step.
|       in: value float[2] <- :value
|       out (value float[2]) -> end of the graph
+- graph spare [never called]
     input: value float[2]
     output: value float[2] <- x:value
   +- node x (noise) [start, not pure]
   |    A noise.
   |    in: value float[2] <- :value
   |    out (value float[2]) -> end of the graph
   +- node y (fail) [never run]
        A fail.
warning: test:spare:y: no way leads here from input node 'x'; it will never run
warning: test:spare: no graph that runs calls it; it is left out
warning: test:inner:x: "cache" has no effect inside a block; cache the block itself
"""


def test_what_is_wrong_is_shown_below(checked: Check, graph_set: Make, graph: Make, step: Make) -> None:
    text = show(checked(graph_set(graph("main", "a:value", step("a", ":value", None, kind="?"), nothing=1))))
    assert text.splitlines()[-2:] == [
        "error: main:main:a: unknown node kind '?'",
        "warning: main:main: unknown key 'nothing' is ignored",
    ]
    assert "+- node a (?) [start]" in text


def test_what_is_no_definition_is_shown_as_an_error(checked: Check) -> None:
    assert show(checked("7")) == "error: definition: expected an object with 'entry' and 'graphs', got 7\n"


def test_long_arguments_are_cut(checked: Check, graph_set: Make, graph: Make, step: Make) -> None:
    text = show(checked(graph_set(graph("main", "a:value", step("a", ":value", None, args={"x": "y" * 500})))))
    assert max(len(line) for line in text.splitlines()) < 100
