"""A client's end of a blob that it writes over the network.

Rules   1. Where each piece will lie is known at once; what is on its way is bounded, and whoever writes waits for room.
        2. What is not answered is said again. After a while without any answer the blob has failed.
        3. It is sealed when the peer says so. What has failed, or was left by an error, is nowhere.
"""

import os
from collections import deque
from collections.abc import Callable, Mapping
from hashlib import blake2b
from threading import Condition
from time import monotonic
from types import TracebackType
from typing import Protocol, Self

from ..core.blobmessages import DIGEST_BYTES, PIECE_BYTES, BlobWritten, WriteBlob
from ..errors import BlobError, ClusterError
from ..execute.blobfiles import name_parts
from ..execute.blobplaces import Appender
from ..wire.columns import Column
from .outside import beside

ROOM_BYTES = 8 * PIECE_BYTES
"""On their way, and not answered yet."""
AGAIN_S = 2.0
"""After the last answer, or the last time; twice as long each time until there is an answer."""
SILENT_S = 30.0


class Say(Protocol):
    """Say a word to the peer; from any thread. Raises ClusterError if nothing can be said any more."""

    def __call__(self, word: WriteBlob, columns: Mapping[str, Column], /) -> None: ...


class BlobSender(Appender):
    """A client/link.py BlobWriter. One thread writes; `heard` and `fail` come from another.

    done: called once, when nothing more is to be heard.
    """

    def __init__(self, name: str, say: Say, done: Callable[["BlobSender"], None]) -> None:
        name_parts(name)
        super().__init__(name)
        self.writer = os.urandom(16)
        self._say = say
        self._done = done
        self._news = Condition()
        self._answer: BlobWritten | None = None
        self._problem = ""
        self._is_refused = False
        self._heard_s = monotonic()
        self._digest = blake2b(digest_size=DIGEST_BYTES)
        self._buffer = bytearray()
        self._sent_bytes = 0
        self._open: deque[WriteBlob] = deque()
        self._data: dict[int, bytes] = {}
        self._is_closed = False

    def begin(self) -> Self:
        """Wait until the peer is ready for it. Raises BlobError if it must not be written, or ClusterError."""
        first = WriteBlob(writer=self.writer, name=self.name, offset=0)
        self._open.append(first)
        self._data[0] = b""
        try:
            self._say(first, beside())
            self._wait(lambda: self._answer is not None)
        except ClusterError:
            if self._is_refused:
                raise BlobError(self._problem) from None
            raise
        finally:
            if self._answer is None:
                self._end()
        self._open.clear()
        self._data.clear()
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.give_up()

    def close(self) -> None:
        """Seal it, and wait until it is stored. Raises ClusterError if it could not be."""
        if self._is_closed:
            return
        try:
            # Small words may overtake large ones, and what comes too early is not taken.
            self._wait(lambda: self._sent_bytes == self._taken_bytes())
            self._send(bytes(self._buffer), last=True)
            self._wait(lambda: self._answer is not None and self._answer.is_sealed)
        finally:
            self._end()

    def give_up(self) -> None:
        """Nothing is to be left of it."""
        if not self._is_closed:
            self._end()
            self._say(WriteBlob(writer=self.writer, name=self.name, offset=self._sent_bytes, last=True), beside())

    # ---- from another thread

    def heard(self, answer: BlobWritten) -> None:
        with self._news:
            self._heard_s = monotonic()
            if answer.problem:
                self._is_refused = True
                self._problem = self._problem or answer.problem
            elif self._answer is None or self._answer.blob_bytes <= answer.blob_bytes:
                self._answer = answer
            self._news.notify_all()

    def fail(self, reason: str) -> None:
        with self._news:
            self._problem = self._problem or reason
            self._news.notify_all()

    # ---- inside

    def _append(self, data: memoryview) -> None:
        if self._is_closed:
            raise BlobError(f"blob {self.name!r} is sealed; write to a new one")
        self._digest.update(data)
        self._length += len(data)
        while data:
            count = PIECE_BYTES - len(self._buffer)
            self._buffer += data[:count]
            data = data[count:]
            if len(self._buffer) == PIECE_BYTES:
                self._send(bytes(self._buffer), last=False)
                self._buffer.clear()

    def _send(self, data: bytes, *, last: bool) -> None:
        self._wait(lambda: self._sent_bytes - self._taken_bytes() <= ROOM_BYTES - len(data))
        digest = self._digest.digest() if last else b""
        word = WriteBlob(writer=self.writer, name=self.name, offset=self._sent_bytes, last=last, digest=digest)
        self._open.append(word)
        self._data[word.offset] = data
        self._sent_bytes += len(data)
        self._say(word, beside(data))

    def _taken_bytes(self) -> int:
        return 0 if self._answer is None else self._answer.blob_bytes

    def _wait(self, holds: Callable[[], bool]) -> None:
        """Wait until it holds; say again what is not answered. Raises ClusterError."""
        with self._news:
            self._heard_s = said_s = monotonic()
            wait_s = AGAIN_S
            while not holds():
                if self._problem:
                    break
                now_s = monotonic()
                if self._heard_s > said_s:
                    said_s, wait_s = self._heard_s, AGAIN_S
                if now_s >= self._heard_s + SILENT_S:
                    self._problem = f"blob {self.name!r}: the peer has not answered for {SILENT_S:g} s; write it anew"
                elif now_s >= said_s + wait_s:
                    self._drop_taken()
                    for word in self._open:
                        self._say(word, beside(self._data[word.offset]))
                    said_s, wait_s = now_s, 2 * wait_s
                else:
                    self._news.wait(min(said_s + wait_s, self._heard_s + SILENT_S) - now_s)
            self._drop_taken()
            if self._problem:
                raise ClusterError(self._problem)

    def _drop_taken(self) -> None:
        """What the peer has; but the last word until it is sealed."""
        taken_bytes = self._taken_bytes()
        while self._open and not self._open[0].last:
            word = self._open[0]
            if word.offset + len(self._data[word.offset]) > taken_bytes or self._answer is None:
                return
            self._open.popleft()
            del self._data[word.offset]

    def _end(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._open.clear()
            self._data.clear()
            self._buffer.clear()
            self._done(self)
