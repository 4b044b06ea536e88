from hypothesis import given, settings
from hypothesis import strategies as st

from scatterzmq.graph.callgraph import below, circles, spread


def test_callees_come_first_and_circles_stay_together() -> None:
    calls = {"main": ("loop", "leaf"), "loop": ("body",), "body": ("loop", "leaf"), "leaf": (), "alone": ("alone",)}
    groups = circles(calls)
    assert sorted(groups) == [("alone",), ("body", "loop"), ("leaf",), ("main",)]
    assert groups.index(("leaf",)) < groups.index(("body", "loop")) < groups.index(("main",))


def test_below_holds_itself_only_if_it_recurses() -> None:
    calls = {"main": ("loop",), "loop": ("body",), "body": ("loop", "leaf"), "leaf": (), "alone": ("alone",)}
    found = below(calls)
    assert found["main"] == {"loop", "body", "leaf"}
    assert found["loop"] == found["body"] == {"loop", "body", "leaf"}
    assert found["leaf"] == frozenset()
    assert found["alone"] == {"alone"}


def test_a_cause_spreads_to_all_callers_by_the_graph_it_comes_through() -> None:
    calls = {"a": ("b",), "b": ("c",), "c": (), "d": ("e",), "e": ("d",)}
    assert spread(calls, {"c": "why"}) == {"c": "why", "b": "c", "a": "b"}
    assert spread(calls, {"e": "why"}) == {"e": "why", "d": "e"}


def test_deep_nesting_needs_no_stack() -> None:
    calls = {str(number): (str(number + 1),) for number in range(3000)} | {"3000": ()}
    assert circles(calls)[0] == ("3000",)
    assert len(circles(calls | {"3000": ("0",)})) == 1


@settings(derandomize=True, deadline=None, database=None, max_examples=80)
@given(edges=st.sets(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=14))
def test_below_is_what_can_be_reached(edges: set[tuple[int, int]]) -> None:
    calls = {str(one): tuple(str(b) for a, b in sorted(edges) if a == one) for one in range(7)}
    reach = {name: set(callees) for name, callees in calls.items()}
    for _ in calls:
        for found in reach.values():
            found.update([far for near in found for far in reach[near]])
    assert below(calls) == reach
    groups = circles(calls)
    assert sorted(name for group in groups for name in group) == sorted(calls)
    for group in groups:
        assert all(other in reach[name] and name in reach[other] for name in group for other in group if name != other)
    for place, group in enumerate(groups):
        later = {name for other in groups[place + 1 :] for name in other}
        assert not any(reach[name] & later for name in group)
