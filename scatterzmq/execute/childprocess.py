"""One executor child as the control process sees it: starts it, talks with it, hears what it prints, sees it end.

Rules   1. Nothing here waits. Nothing that a child does makes anything here raise: it is killed, with a reason.
        2. A child has ended when its process has; all that it had said before counts.
        3. When it ends, so does what its nodes have started (its process group), and all descriptors are closed.
"""

import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic
from typing import Protocol

from ..wire.columns import Apart, Column
from .childwire import NO_COLUMNS, Begin, FromChild, ToChild, opened_apart, wrapped
from .common import new_executor_id
from .output import LineBudget
from .poller import READABLE, WRITABLE, Poller
from .sharedmemory import Channel, Packet, Scratch
from .work import Work

_ROOT = str(Path(__file__).parents[2])
_READ_NBYTES = 1 << 16
_LINE_NBYTES_MAX = 8192
_LAST_WORDS_MAX = 10_000
_LAST_READS_MAX = 64
"""Of what a child has said before it ended: nothing that it has started can hold us up by saying ever more."""
_SPINS = "1000"
"""How often a thread of torch looks for more work before it sleeps: 300,000 times by default, which is milliseconds,
and 1,000 where libgomp knows of more threads than cores. Of other processes it does not know."""
_SILENCE_S = 0.5
"""How long a process may take to end after its sockets have closed; else it has closed them itself."""


class Listener(Protocol):
    """Hears of children."""

    def heard(self, child: "ChildProcess", word: FromChild, columns: Sequence[tuple[str, Column | Apart]], /) -> None:
        """A word has come. If it makes no sense, the child is to be distrusted."""
        ...

    def printed(self, child: "ChildProcess", line: str, /) -> None: ...

    def ended(self, child: "ChildProcess", reason: str, /) -> None:
        """Its process is gone; the last that is heard of it."""
        ...


class ChildProcess:
    """One child. Raises OSError if it cannot be started.

    is_ready: it has said so, at ready_s. work: the batch that it has. plans: that it knows. has_worked: it has
    finished a batch. unfit: why it cannot be ready, as it says. is_hopeless: and neither can any other. last_line: that
    it has printed. silent_s: when it is to be killed because it has closed its sockets and lives on.
    """

    def __init__(self, poller: Poller, listener: Listener, begin: Begin) -> None:
        self.executor = new_executor_id()
        self.started_s = monotonic()
        self.is_ready = False
        self.ready_s = 0.0
        self.work: Work | None = None
        self.has_worked = False
        self.plans: set[bytes] = set()
        self.unfit = ""
        self.is_hopeless = False
        self.last_line = ""
        self.silent_s: float | None = None
        self._poller = poller
        self._listener = listener
        self._doom = ""
        self._budget = LineBudget()
        self._rest = b""
        self._scratch = Scratch()
        work, their_work = Channel.pair()
        aside, their_aside = Channel.pair()
        self._output, their_output = os.pipe()
        try:
            self._process = _started(their_work.fileno(), their_aside.fileno(), their_output)
            self._pidfd = _pidfd(self._process)
        except OSError:
            os.close(self._output)
            work.close()
            aside.close()
            raise
        finally:
            their_work.close()
            their_aside.close()
            os.close(their_output)
        os.set_blocking(self._output, False)
        poller.add(self._pidfd, self._ending)
        poller.add(self._output, self._readable)
        self._work = _Link(poller, work, self._said)
        self._aside = _Link(poller, aside, self._said)
        self.tell(begin)

    @property
    def is_usable(self) -> bool:
        """Whether it may be given something to do."""
        return self.is_ready and not self._doom and self.silent_s is None

    @property
    def pid(self) -> int:
        return self._process.pid

    def tell(self, word: ToChild, columns: Sequence[tuple[str, Column | Apart]] = NO_COLUMNS) -> bool:
        """Say something on `work`; False if that is known to be in vain. Raises OSError without memory for it."""
        return self._work.is_open and self._work.send(wrapped(word, columns, self._scratch))

    def tell_aside(self, word: ToChild) -> bool:
        """As `tell`, past the batches."""
        return self._aside.send(wrapped(word))

    def finish(self) -> None:
        """Have it end after its batch."""
        self._work.finish()

    def kill(self, reason: str) -> None:
        """Have it end at once, and hear nothing of it any more but that."""
        self._doom = self._doom or reason
        self.silent_s = None
        self._kill_group()
        self._work.close()
        self._aside.close()

    def distrust(self, why: str) -> None:
        """It said what makes no sense: nobody knows what else is wrong with it."""
        self.kill(f"it sent what makes no sense: {why}")

    # ---- what it says

    def _said(self, link: "_Link") -> bool:
        """Read a word; False if there was none."""
        try:
            packet = link.receive()
            if packet is None:
                return False
            word, columns = opened_apart(packet)
        except EOFError:
            link.close()
            if self.silent_s is None and not self._doom:
                self.silent_s = monotonic() + _SILENCE_S
            return False
        except (ValueError, OSError) as error:
            self.distrust(f"{error}")
            return False
        if isinstance(word, FromChild):
            self._listener.heard(self, word, columns)
        else:
            self.distrust(f"a {type(word).__name__}, which only we say")
        return True

    def _readable(self, _bits: int) -> None:
        self._read_output()

    def _read_output(self) -> bool:
        """Hand on what it has printed; False if there was nothing."""
        try:
            data = os.read(self._output, _READ_NBYTES)
        except BlockingIOError:
            return False
        if not data:
            self._poller.remove(self._output)  # it would be ready for ever
            return False
        *lines, rest = (self._rest + data).split(b"\n")
        while len(rest) > _LINE_NBYTES_MAX:
            lines.append(rest[:_LINE_NBYTES_MAX])
            rest = rest[_LINE_NBYTES_MAX:]
        self._rest = rest
        for line in lines:
            self._printed(line)
        return True

    def _printed(self, line: bytes) -> None:
        text = line.decode("utf-8", "replace")
        self.last_line = text.strip() or self.last_line
        for passed in self._budget.passed(text):
            self._listener.printed(self, passed)

    # ---- its end

    def _ending(self, _bits: int) -> None:
        """Its process is gone, all but its number."""
        self._poller.remove(self._pidfd)
        os.close(self._pidfd)
        for link in (self._work, self._aside):
            for _ in range(_LAST_WORDS_MAX):
                if not link.is_open or not self._said(link):
                    break
            link.close()
        self._kill_group()  # before it is waited for: until then nobody else can have its number
        code = self._process.wait()
        for _ in range(_LAST_READS_MAX):
            if not self._read_output():
                break
        if self._rest:
            self._printed(self._rest)
        for line in self._budget.rest():
            self._listener.printed(self, line)
        self._poller.remove(self._output)
        os.close(self._output)
        self._scratch.close()  # last: whoever heard its last words may have given it more to do
        is_ours = self._doom and code == -signal.SIGKILL
        self._listener.ended(self, self._doom if is_ours else described_end(code))

    def _kill_group(self) -> None:
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            return  # all of it is gone


class _Link:
    """A channel to a child. What the child does not take at once waits here."""

    def __init__(self, poller: Poller, channel: Channel, readable: "Callable[[_Link], bool]") -> None:
        self.is_open = True
        self._poller = poller
        self._channel = channel
        self._readable = readable
        self._waiting: deque[Packet] = deque()
        self._is_finished = False
        poller.add(channel.fileno(), self._happened)

    def send(self, packet: Packet) -> bool:
        """False if nobody listens. Raises OSError if there is not the memory to send it."""
        if not self.is_open:
            packet.close()
            return False
        if self._waiting:
            self._waiting.append(packet)
            return True
        try:
            self._channel.send(packet)
        except BlockingIOError:
            self._waiting.append(packet)
            self._poller.expect(self._channel.fileno(), READABLE | WRITABLE)
        except ConnectionError:
            packet.close()
            return False
        except OSError:
            packet.close()
            raise
        return True

    def receive(self) -> Packet | None:
        """A packet, if there is one. Raises EOFError if none will come any more, BadPacket, or OSError."""
        try:
            packet = self._channel.receive()
        except BlockingIOError:
            return None
        except ConnectionError:
            raise EOFError from None
        if packet is None:
            raise EOFError
        return packet

    def finish(self) -> None:
        """Say nothing after what waits."""
        self._is_finished = True
        if self.is_open and not self._waiting:
            self._channel.finish()

    def close(self) -> None:
        if self.is_open:
            self.is_open = False
            self._poller.remove(self._channel.fileno())
            self._channel.close()
            while self._waiting:
                self._waiting.pop().close()

    def _happened(self, bits: int) -> None:
        if bits & WRITABLE:
            self._send_waiting()
        if bits & ~WRITABLE and self.is_open:
            self._readable(self)

    def _send_waiting(self) -> None:
        while self._waiting:
            try:
                self._channel.send(self._waiting[0])
            except BlockingIOError:
                return
            except OSError:
                # Nobody listens, or there is no memory: its end will tell, or its batch runs out of time.
                self._waiting[0].close()
            self._waiting.popleft()
        self._poller.expect(self._channel.fileno(), READABLE)
        if self._is_finished:
            self._channel.finish()


def _started(work: int, aside: int, output: int) -> "subprocess.Popen[bytes]":
    """The process. A new one, not a copy: torch does not outlive a fork. In a session of its own, so that Ctrl-C in the
    terminal of the peer does not end it.
    """
    return subprocess.Popen(  # noqa: S603 -- it is ourselves
        [sys.executable, "-P", "-m", f"{__package__}.child", str(work), str(aside), str(os.getpid())],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        pass_fds=(work, aside),
        start_new_session=True,
        env=_environment(),
    )


def _environment() -> dict[str, str]:
    """Of this process, as far as whoever runs the peer has said what is set here."""
    made = dict(os.environ)
    if not _is_installed():
        made["PYTHONPATH"] = os.pathsep.join([path for path in (_ROOT, made.get("PYTHONPATH", "")) if path])
    if "OMP_WAIT_POLICY" not in made:
        made.setdefault("GOMP_SPINCOUNT", _SPINS)
    return made


def _is_installed() -> bool:
    """Whether every Python of this environment finds the package; else it is told where."""
    return Path(_ROOT).name in ("site-packages", "dist-packages")


def _pidfd(process: "subprocess.Popen[bytes]") -> int:
    try:
        return os.pidfd_open(process.pid)
    except OSError:
        process.kill()
        process.wait()
        raise


def described_end(code: int) -> str:
    """How a process has ended, from what `wait` says."""
    if code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        return f"killed by signal {-code}"
    return f"killed by signal {-code} ({name})"
