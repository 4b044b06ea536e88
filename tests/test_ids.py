"""Ids: the values that scattermind gives to the same names, and refusals that show what is wrong."""

import pytest

from scatterzmq.errors import FormatError
from scatterzmq.ids import (
    OUTPUT_QUEUE,
    BlockId,
    ClientId,
    ExecutorId,
    GraphId,
    Id,
    NodeId,
    PayloadId,
    PeerId,
    QueueId,
    TaskId,
    Token,
)

KINDS = (GraphId, NodeId, QueueId, TaskId, ExecutorId, PayloadId, PeerId, ClientId)


def test_names_give_the_ids_that_scattermind_gives() -> None:
    assert GraphId.of("main", "procedure") == "G39480925ae3a57d1b5cf24c67f5d228f"
    assert NodeId.of("main", "procedure", "node_0") == "N793f7734c7375520b000f37b6f38be87"
    assert QueueId.of("main", "procedure", "node_0") == "Qad973a7579145e1fa98475c794f22080"
    assert GraphId.of("größe", "main") == "Gab195d0a783f5a84a6efb6b54fef18c1"


def test_the_output_queue_is_the_reserved_one() -> None:
    assert QueueId.parse("Q8a82aef7da2c4b49bf7ba25d42e99391") == OUTPUT_QUEUE


def test_prefixes_tell_the_kinds_apart() -> None:
    assert "".join(kind.PREFIX for kind in KINDS) == "GNQTEDPC"


@pytest.mark.parametrize("kind", KINDS)
def test_text_and_bytes_give_the_same_id_back(kind: type[Id]) -> None:
    made = kind.from_bytes(bytes(range(16)))
    assert made == kind.PREFIX + "000102030405060708090a0b0c0d0e0f"
    assert kind.parse(str(made)) == made
    assert type(kind.parse(str(made))) is kind
    assert made.to_bytes() == bytes(range(16))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "T",
        "Q" + "0" * 32,  # another kind
        "t" + "0" * 32,
        "T" + "0" * 31,
        "T" + "0" * 33,
        "T" + "0" * 31 + "g",
        "T" + "0" * 31 + "A",
        "T" + "0" * 31 + "\n",
        "T00000000-0000-0000-0000-00000000",
        "T" + "\u0660" * 32,  # digits, but not of this kind
        "0" * 33,
    ],
)
def test_a_wrong_id_is_refused_and_shown(text: str) -> None:
    with pytest.raises(FormatError, match="invalid TaskId") as caught:
        TaskId.parse(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("count", [0, 15, 17])
def test_a_wrong_number_of_bytes_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"{count} bytes, expected 16"):
        NodeId.from_bytes(bytes(count))


def test_tokens_compare_by_epoch_then_owner_then_counter() -> None:
    low, high = PeerId("P" + "0" * 32), PeerId("P" + "1" * 32)
    assert Token(1, high, 9) < Token(2, low, 0) < Token(2, high, 0) < Token(2, high, 1)


def test_block_ids_are_values() -> None:
    maker = ClientId("C" + "0" * 32)
    assert BlockId(maker, 3) == BlockId(maker, 3) != BlockId(maker, 4)
