import pytest

from scatterzmq.graph.names import FORBIDDEN, QualifiedField, QualifiedGraph, check_name, hint


@pytest.mark.parametrize("text", ["a", "node_0", "größe", "a.b/c-d", "日本", "1", "\x01", "a,b"])
def test_a_name_may_have_anything_else(text: str) -> None:
    assert check_name(text, "node") == text


@pytest.mark.parametrize("char", list(": \n\r\t\0\\'\"\a\b\f\v"))
def test_a_forbidden_character_is_shown(char: str) -> None:
    assert char in FORBIDDEN
    for text in (char, f"a{char}", f"{char}b", f"a{char}b"):
        with pytest.raises(ValueError, match="node name") as caught:
            check_name(text, "node")
        assert repr(char) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "reason"), [("", "is empty"), ("\ud800", "surrogate"), (None, "must be text"), (3, "3")]
)
def test_what_is_no_name_is_refused(text: object, reason: str) -> None:
    with pytest.raises(ValueError, match=f"graph name .*{reason}"):
        check_name(text, "graph")


def test_a_qualified_field_names_a_node_or_the_graphs_input() -> None:
    assert QualifiedField.parse("node:value") == ("node", "value")
    assert QualifiedField.parse(":value") == (None, "value")
    assert [str(QualifiedField.parse(text)) for text in ("node:value", ":value")] == ["node:value", ":value"]


@pytest.mark.parametrize("text", ["", "value", ":", "node:", "a:b:c", "a b:c", "a:b c", "::", None, 7, ["a:b"]])
def test_a_wrong_qualified_field_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r"field|node name"):
        QualifiedField.parse(text)


def test_a_qualified_graph_has_a_namespace() -> None:
    assert QualifiedGraph.parse("ns:main") == ("ns", "main")
    assert str(QualifiedGraph("ns", "main")) == "ns:main"


@pytest.mark.parametrize("text", ["", "main", ":main", "ns:", "ns:a:b", "n s:main", None])
def test_a_wrong_qualified_graph_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r"namespace|graph name"):
        QualifiedGraph.parse(text)


def test_a_hint_suggests_the_nearest_name_or_lists_all() -> None:
    assert hint("nod_1", ["node_0", "node_1"], "nodes") == "did you mean 'node_1'?"
    assert hint("zzz", ["b", "a"], "nodes") == "the nodes are 'a', 'b'"
    assert hint("n1", [f"n{number}" for number in range(9000)], "nodes").endswith("8988 more")  # Too many to compare.
    assert hint("zzz", [], "nodes") == "there are no nodes"
    assert hint("zzz", [f"n{number:02}" for number in range(20)], "nodes").endswith("'n11' and 8 more")
