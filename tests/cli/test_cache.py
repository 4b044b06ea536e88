"""`scatterzmq cache clear`: all peers forget; who does not is exit 1 and one line."""

from collections.abc import Callable
from typing import Any

import pytest

import scatterzmq
from scatterzmq.cli import cache
from scatterzmq.core.messages import CacheCleared, ClearCache, Namespaces
from tests.test_remote import LONG_S, Peer, Served, definition, until


def cached(ns: str, const: float) -> dict[str, Any]:
    made = definition(const)
    made["graphs"][0]["cache"] = True
    return made | {"ns": ns}


def test_a_namespace_is_cleared_at_all_peers(cli: Any, pair: list[Peer]) -> None:
    """Values lie with the owners of their keys, and with those who asked."""
    with scatterzmq.connect(pair[0].address) as one, scatterzmq.connect(pair[1].address) as other:
        for ns, const in (("one", 1.0), ("other", 2.0)):
            one.load_graph(cached(ns, const))
            for client in (one, other):
                until(lambda client=client, ns=ns: ns in client.namespaces())  # type: ignore[misc]
                tasks = [client.enqueue_task(ns, {"value": [number]}) for number in range(20)]
                for _, response in client.wait_for(tasks, timeout=LONG_S):
                    response.ok()

        def entries() -> int:
            return int(one._run(one._calls.stats()).cache_entries)

        assert entries() == 80
        ran = cli("cache", "clear", "one", "--join", pair[1].address)
        assert ran == (0, "forgot 40 results at 2 peers\n", "")
        assert entries() == 40
        assert cli("cache", "clear", "one", "--join", pair[1].address).out == "forgot 0 results at 2 peers\n"
        assert cli("cache", "clear", "--all", "--join", pair[1].address).out == "forgot 40 results at 2 peers\n"
        assert entries() == 0


def test_a_namespace_that_is_not_there(cli: Any, running: Callable[..., Peer]) -> None:
    peer = running()
    ran = cli("cache", "clear", "nothing", "--join", peer.address)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == "scatterzmq: namespace 'nothing' is not loaded; loaded are: none\n"


@pytest.mark.parametrize("words", [(), ("one", "--all")])
def test_what_to_clear_is_said_once(cli: Any, words: tuple[str, ...]) -> None:
    ran = cli("cache", "clear", *words)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == "scatterzmq: cache clear: expected a namespace, or --all for all of them\n"


def test_a_peer_that_does_not_answer_is_told_of(
    cli: Any, served: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "_ANSWER_S", 0.2)
    script = served(answer=lambda _peer, _envelope, message: None)
    ran = cli("cache", "clear", "--all", "--join", script.peer.address)
    assert (ran.code, ran.out) == (1, "forgot 0 results at 0 peers\n")
    reason = "not reached, so what is cached there is still there; try again"
    assert ran.err == f"scatterzmq: peer-a ({script.peer.id}): {reason}\n"


def test_one_result_at_one_peer(cli: Any, served: Callable[..., Served]) -> None:
    def answer(_peer: Any, _envelope: Any, message: Any) -> Any:
        if isinstance(message, ClearCache):
            assert message.origins is None
            return CacheCleared(mid=message.mid, values=1)
        return Namespaces(mid=message.mid, infos=())

    script = served(answer=answer)
    ran = cli("cache", "clear", "--all", "--join", script.peer.address)
    assert ran == (0, "forgot 1 result at 1 peer\n", "")
