"""Options, read back from the sockets."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import zmq
from zmq.utils.monitor import recv_monitor_message

from scatterzmq.net import options

KINDS: list[tuple[str, Callable[[Any], Any], Mapping[int, int], int]] = [
    ("router", options.router, options.ROUTER, zmq.ROUTER),
    ("control", lambda context: options.dealer(context, b"me", bulk=False), options.CONTROL, zmq.DEALER),
    ("bulk", lambda context: options.dealer(context, b"me", bulk=True), options.BULK, zmq.DEALER),
    (
        "heard",
        lambda context: options.dealer(context, b"me", bulk=True, is_heard=True),
        {**options.BULK, **options.HEARD},
        zmq.DEALER,
    ),
    ("publisher", options.publisher, options.PUBLISHER, zmq.PUB),
    ("subscriber", options.subscriber, options.SUBSCRIBER, zmq.SUB),
]
WRITE_ONLY = {zmq.ROUTER_HANDOVER, zmq.ROUTER_MANDATORY}
"""libzmq takes them and does not tell; tests/net/test_links.py sees what they do."""


@pytest.fixture
def context() -> Iterator[options.Context]:
    made = options.context()
    yield made
    made.destroy(0)


@pytest.mark.parametrize(("make", "expected", "kind"), [each[1:] for each in KINDS], ids=[each[0] for each in KINDS])
def test_a_socket_has_the_options_of_its_kind(
    context: options.Context, make: Callable[[Any], Any], expected: Mapping[int, int], kind: int
) -> None:
    with make(context) as socket:
        assert socket.get(zmq.TYPE) == kind
        assert {option: socket.get(option) for option in expected if option not in WRITE_ONLY} == {
            option: value for option, value in expected.items() if option not in WRITE_ONLY
        }
        assert socket.copy_threshold == options.COPIED_BYTES


def test_what_connects_forgets_its_queue_with_the_connection() -> None:
    for connecting in (options.CONTROL, options.BULK):
        assert connecting[zmq.IMMEDIATE] == 1
    for each in KINDS:
        assert each[2][zmq.LINGER] == 0
        assert each[2][zmq.MAXMSGSIZE] > options.PIECE_BYTES


def test_a_lane_is_known_by_its_routing_id(context: options.Context) -> None:
    with options.dealer(context, b"me", bulk=False) as socket:
        assert socket.get(zmq.ROUTING_ID) == b"me"


def test_a_context_has_room_for_the_sockets_of_all_peers(context: options.Context) -> None:
    assert context.get(zmq.MAX_SOCKETS) == options.SOCKETS_MAX


def test_a_connection_may_break_between_two_frames(context: options.Context) -> None:
    """Without `is_heard` this ends the process."""
    with options.router(context) as router, options.dealer(context, b"me", bulk=False, is_heard=True) as socket:
        port = router.bind_to_random_port("tcp://127.0.0.1")
        events = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        socket.connect(f"tcp://127.0.0.1:{port}")
        socket.send(b"here")
        assert router.recv_multipart()[0] == b"me"
        router.send_multipart([b"me", b"first", b"second"])
        assert socket.recv() == b"first"
        router.close(0)
        assert recv_monitor_message(events)["event"] == zmq.EVENT_DISCONNECTED
        assert socket.poll(1000)
        assert socket.recv(zmq.NOBLOCK) == b"second"
        socket.disable_monitor()
        events.close(0)
