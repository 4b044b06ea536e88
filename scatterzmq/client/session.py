"""The session: one client's table of tasks, and what goes out and comes in over its link. No sockets, no clock.

Purpose   Any number of threads enqueue, wait and ask; one thread delivers. All state is under one lock, and nothing
          is called while it is held: not the link, not the waiting parties.
Rules     1. A task is pending until it is accepted or refused. Pending tasks are bounded (window), in number and bytes.
          2. Tasks gather in a buffer per namespace. They leave when it is full, when nothing is on its way (so a
             lone task never waits), or when somebody waits for them. Acceptance sends the rest: no timers.
          3. Messages leave in the order in which they were staged, whichever thread carries them.
          4. The first outcome of a task stays, except that a task cleared elsewhere becomes unknown.
          5. What was read can be asked from the peer again, so only the latest such outcomes are kept.
          6. Whoever waits has a box. It gets what it waits for, or a ClusterError when the session has ended.
"""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

from ..core.messages import (
    Accepted,
    AskNamespaces,
    Attach,
    Cancel,
    Clear,
    Final,
    Goodbye,
    Moved,
    NamespaceInfo,
    Namespaces,
    Refused,
    TaskStatus,
    ToClient,
    ToPeer,
)
from ..errors import ClusterError, ErrorCode, ErrorContext, ErrorInfo, TaskError
from ..ids import TaskId
from ..wire.columns import Column, fingerprint
from .handles import BATCH_NBYTES_MAX, BATCH_TASKS_MAX, Batch, Box, Buffer, FreshIds, Handle, Item, Kept, misfit
from .link import Connect
from .outgoing import Outgoing
from .response import Outcome, Response, Rows, ended, local_end

WINDOW_NBYTES = 64 << 20
KEPT_NBYTES = 64 << 20
"""Inputs not accepted yet, and read results, that a client holds at most."""
RENEWALS_MAX = 10
"""A namespace that is redefined more often than this while one task is being accepted never settles."""
_READY, _DONE, _UNKNOWN = TaskStatus.READY, TaskStatus.DONE, TaskStatus.UNKNOWN
"""As names of this module: reaching through the enum class costs more than the comparison."""
_new = tuple.__new__
"""Makes a named tuple without the function in between, of which there is one call per task."""
STALE = "stale:"
"""How the message of a refusal begins when the namespace was redefined since the inputs were checked."""

Wakes: TypeAlias = list[tuple[Box, Item]]


class Session:
    """See the module. Every method may be called from any thread, and none blocks.

    fault: why nothing goes out or comes in any more; None as long as it does. Set once, by `end`.
    infos: the namespaces that this client has met, as it last saw them. Changed by `learn` only, and here.
    deliverer: the thread that is delivering; 0 if none is.
    carriers: boxes of threads that wait, and will `carry` when they are told: so they need not wait for that, too.
    cache: False keeps its tasks out of the cache.
    """

    def __init__(self, connect: Connect, *, window: int, cache: bool = True) -> None:
        assert window > 0, "a client without a window could never enqueue"
        self._window = window
        self._cache = cache
        self._lock = threading.Lock()
        self.deliverer = 0
        self.carriers: set[Box] = set()
        self._out = Outgoing(self.end)
        self._fresh = FreshIds()
        self._tasks: dict[TaskId, Handle] = {}
        self._pending: dict[TaskId, Handle] = {}
        self._pending_nbytes = 0
        self._unanswered = 0
        self._seq = 0
        self._buffers: dict[str, Buffer] = {}
        self._replies: dict[int, Box] = {}
        self._barriers: list[tuple[int, Box]] = []
        self._room: list[Box] = []
        self._refusals: dict[TaskId, ErrorInfo] = {}
        self._kept = Kept(window, KEPT_NBYTES)
        self.fault: ClusterError | None = None
        self.infos: dict[str, NamespaceInfo] = {}
        self.link = connect(self)

    # ---- tasks out

    def enqueue(
        self,
        info: NamespaceInfo,
        inputs: Mapping[str, Column],
        task: TaskId | None = None,
        watcher: Box | None = None,
        room: Box | None = None,
    ) -> Handle | None:
        """Take a task; None if the window is full: then `room` is told when it is worth another try.

        task: an id the user has chosen. watcher: told of the outcome; then the task is private.
        Raises ClusterError once the session has ended.
        """
        nbytes = 0
        for column in inputs.values():
            nbytes += len(column.data)
        # The fields of a handle by position: names would double what making it costs, and there is one per task.
        watchers = () if watcher is None else (watcher,)
        mark = fingerprint(info.ns, inputs, 0)
        handle = Handle(task or self._fresh.take(), info.ns, inputs, nbytes, mark, watchers, watcher is not None)
        with self._lock:
            if self.fault is not None:
                raise _again(self.fault)
            pending = self._pending
            full = len(pending) >= self._window or self._pending_nbytes + nbytes > WINDOW_NBYTES
            # A delivering thread is let through: it cannot wait for an answer that it would have to bring itself.
            if full and pending and not self.in_delivery:
                if room is not None:
                    self._room.append(room)
                return None
            if task is not None:
                known = self._tasks.get(task)
                if known is not None:
                    known = self._met_again(handle, known)
                    if known is None:
                        return self._tasks[task]
                    handle = known
            self._seq = handle.seq = self._seq + 1
            handle.pending = True
            self._tasks[handle.id] = pending[handle.id] = handle
            self._pending_nbytes += nbytes
            self._gather(handle, info)
        if self._out.staged:
            self._out.carry(self.link)
        return handle

    def push(self) -> None:
        """Send what has gathered."""
        with self._lock:
            self._take_all()
        self.carry()

    def barrier(self, seq: int | None, box: Box) -> bool:
        """True if everything enqueued up to `seq` (None: so far) has been accepted or refused; else tells the box."""
        with self._lock:
            if self.fault is not None:
                raise _again(self.fault)
            self._take_all()
            seq = self._seq if seq is None else seq
            done = self._oldest() > seq
            if not done:
                self._barriers.append((seq, box))
        self.carry()
        return done

    def abandon(self, handle: Handle) -> bool:
        """Nobody wants a private task any more: end and forget it. False if that is so already, or it has ended."""
        with self._lock:
            if handle.outcome is not None or handle.abandoned:
                return False
            handle.abandoned = True
            handle.watchers = ()
            if not handle.pending:  # else as soon as it is accepted
                self._discard((handle,))
        self.carry()
        return True

    # ---- questions out

    def request(self, make: Callable[..., ToPeer], box: Box) -> int:
        """Send the message make(mid=…), whose answer goes to the box; returns its number. Raises ClusterError at the
        end.
        """
        mid = self._out.next_mid()
        with self._lock:
            if self.fault is not None:
                raise _again(self.fault)
            self._replies[mid] = box
            self._out.stage(make(mid=mid))
        self.carry()
        return mid

    def withdraw(self, box: Box, mid: int | None = None, handles: Iterable[Handle] = ()) -> None:
        """The box waits no more: for an answer, for these tasks, for acceptance or room."""
        with self._lock:
            if mid is not None:
                self._replies.pop(mid, None)
            if self._barriers:
                self._barriers = [entry for entry in self._barriers if entry[1] is not box]
            if self._room:
                self._room = [entry for entry in self._room if entry is not box]
            for handle in handles:
                if box in handle.watchers:
                    handle.watchers = tuple([other for other in handle.watchers if other is not box])
                foreign = not handle.fingerprint and handle.outcome is None and not handle.watchers
                if foreign and self._tasks.get(handle.id) is handle:
                    del self._tasks[handle.id]

    def watch(self, tasks: Sequence[TaskId], box: Box) -> tuple[dict[TaskId, Handle], list[Handle]]:
        """The tasks that have not ended, whose ends the box will be told, and those that have. Tasks of other clients
        are attached to.
        """
        strangers: list[TaskId] = []
        waiting: dict[TaskId, Handle] = {}
        over: list[Handle] = []
        with self._lock:
            if self.fault is not None:
                raise _again(self.fault)
            if self._buffers:
                self._take_all()
            known = self._tasks
            for task in tasks:
                handle = known.get(task)
                if handle is None:
                    handle = known[task] = Handle(task, "", None, 0, b"", ())
                    strangers.append(task)
                elif handle.outcome is not None or handle.conflict is not None:
                    over.append(handle)
                    continue
                elif not handle.fingerprint:
                    strangers.append(task)  # asking again is free, and heals an answer that was lost
                waiting[task] = handle
                handle.watchers += (box,)
            if strangers:
                self._out.stage(Attach(ids=tuple(strangers)))
        if self._out.staged:
            self._out.carry(self.link)
        return waiting, over

    # ---- what is known

    def handle(self, task: TaskId) -> Handle | None:
        return self._tasks.get(task)

    def learn(self, infos: Iterable[NamespaceInfo]) -> None:
        with self._lock:
            self.infos.update((info.ns, info) for info in infos)

    def read(self, handle: Handle) -> Response | None:
        """Hand out the end of a task, once per reading; None while it has not ended. The peer learns of it with the
        next message (or `tell_reads`).
        """
        with self._lock:
            task, outcome, read = handle.id, handle.outcome, handle.read
            if self._refusals:
                self._refusals.pop(task, None)
            if handle.conflict is not None:
                outcome = local_end(task, handle.ns, TaskStatus.ERROR, handle.conflict)
                handle.conflict = None
            elif outcome is None:
                return None
            elif not read:
                handle.read = True
                if outcome.final.statuses[outcome.place] is _READY and not handle.private:
                    self._out.read(task)
                if self._tasks.get(task) is handle:
                    # Count it, and let go of the oldest ones beyond what may be kept.
                    for gone in self._kept.add(task, 0 if outcome.rows is None else outcome.rows.row_nbytes):
                        del self._tasks[gone]
        if self._out.staged:
            self._out.carry(self.link)
        return ended(task, handle.ns or None, outcome, read=read)

    def tell_reads(self) -> None:
        """Let the peer know what has been read."""
        if self._out.reads:  # who asks has read them before, so looking needs no lock
            with self._lock:
                self._out.stage_reads()
            self._out.carry(self.link)

    def refusal(self) -> TaskError | None:
        """The first task that was refused without anybody having been told. Says so once, for all of them."""
        with self._lock:
            refusals, self._refusals = self._refusals, {}
            for task in refusals:
                handle = self._tasks.get(task)
                if handle is not None:
                    handle.conflict = None
        for task, error in refusals.items():
            return TaskError(task, error)
        return None

    def told(self, task: TaskId) -> None:
        """The user has learned that this task was refused."""
        with self._lock:
            self._refusals.pop(task, None)

    def forget(self, task: TaskId) -> None:
        """A task was cleared: whoever waits for it is told that it is unknown."""
        wakes: Wakes = []
        with self._lock:
            handle = self._tasks.get(task)
            if handle is not None:
                handle.outcome = local_end(task, handle.ns, TaskStatus.UNKNOWN, None)
                handle.conflict = None
                self._drop(handle, wakes)
            self._refusals.pop(task, None)
        _wake(wakes)

    @property
    def pending_count(self) -> int:
        return len(self._pending)

    @property
    def in_delivery(self) -> bool:
        """Whether this thread is delivering: then it must not wait, since what it would wait for comes by itself."""
        return self.deliverer == threading.get_ident()

    # ---- in

    def __call__(self, message: ToClient, columns: Mapping[str, Column], /) -> None:
        """A message has come. Runs callbacks of futures, therefore without the lock."""
        # Messages come one at a time, though not always in the same thread; one may come within another's callbacks.
        outer, self.deliverer = self.deliverer, threading.get_ident()
        try:
            if isinstance(message, Final):
                wakes = self._ended(message, columns)
            elif isinstance(message, Accepted):
                wakes = self._accepted(message)
            elif isinstance(message, Refused):
                wakes = self._refused(message)
            elif isinstance(message, Moved | Goodbye):
                wakes = []  # whoever carries the messages has asked there already
            else:
                with self._lock:
                    box = self._replies.pop(message.mid, None)
                wakes = [] if box is None else [(box, message)]  # nobody waits: the answer came too late
            staged = len(self._out.staged)  # one: that a task which has ended is to be cleared, and no new tasks
            if staged > 1 or (staged and self.carriers.isdisjoint([box for box, _ in wakes])):
                self._out.carry(self.link)
            for box, item in wakes:
                box.put(item)
        finally:
            self.deliverer = outer

    def lost(self, reason: str, /) -> None:
        """The link is gone for good."""
        self.end(ClusterError(reason))

    def end(self, fault: ClusterError) -> None:
        """Nothing goes out or comes in any more; everything that waits fails with the fault."""
        with self._lock:
            if self.fault is not None:
                return
            self.fault = fault
            boxes = [*self._replies.values(), *(box for _, box in self._barriers), *self._room]
            for handle in self._tasks.values():
                boxes += handle.watchers
                handle.watchers = ()
            self._replies, self._barriers, self._room, self._buffers = {}, [], [], {}
            self._out.drop()
        _wake([(box, fault) for box in boxes])

    def _accepted(self, message: Accepted) -> Wakes:
        wakes: Wakes = []
        unwanted = []
        with self._lock:
            for task in message.ids:
                handle = self._pending.get(task)
                if handle is not None:
                    self._settle(handle)
                    if handle.abandoned:
                        unwanted.append(handle)
            if unwanted:
                self._discard(unwanted)
            if self._buffers or self._barriers or self._room:
                self._after_settling(wakes)
        return wakes

    def _ended(self, message: Final, columns: Mapping[str, Column]) -> Wakes:
        wakes: Wakes = []
        over = []
        rows, row = Rows(columns), 0
        statuses = message.statuses
        with self._lock:
            known = self._tasks
            for index, task in enumerate(message.ids):
                status = statuses[index]
                has_result = status is _READY or status is _DONE
                handle = known.get(task)
                if handle is not None and not (handle.pending and status is _UNKNOWN):
                    # An unknown pending task: the answer to an older question, as its submission is still on its way.
                    if handle.pending:
                        self._settle(handle)
                    if handle.outcome is None or status is _UNKNOWN:
                        handle.outcome = _new(Outcome, (message, index, rows if has_result else None, row))
                        if status is _UNKNOWN:
                            self._drop(handle, wakes)
                        elif handle.private:
                            over.append(task)
                            self._drop(handle, wakes)
                        elif handle.watchers:
                            for box in handle.watchers:
                                wakes.append((box, handle))
                            handle.watchers = ()
                row += has_result
            if over:
                self._out.stage(Clear(mid=self._out.next_mid(), ids=tuple(over)))
            if self._buffers or self._barriers or self._room:
                self._after_settling(wakes)
        return wakes

    def _refused(self, message: Refused) -> Wakes:
        wakes: Wakes = []
        with self._lock:
            handles = [self._pending[task] for task in message.ids if task in self._pending]
            if not handles:
                return wakes
            if message.code is ErrorCode.REFUSED and message.message.startswith(STALE):
                for handle in handles:
                    self._unanswered -= handle.sent
                    handle.sent = False
                mid = self._out.next_mid()
                self._replies[mid] = _Renewal(self, handles)
                self._out.stage(AskNamespaces(mid=mid, ns=handles[0].ns))
            else:
                for handle in handles:
                    self._refuse(handle, message.code, message.message, wakes)
            self._after_settling(wakes)
        return wakes

    def resubmit(self, info: NamespaceInfo | None, handles: Iterable[Handle]) -> None:
        """Send tasks again whose namespace was redefined, where their inputs still fit. None: it is gone."""
        wakes: Wakes = []
        with self._lock:
            if self.fault is not None:
                return
            if info is not None:
                self.infos[info.ns] = info
            for handle in handles:
                if not handle.pending:
                    continue
                handle.renewals += 1
                assert handle.inputs is not None, "a pending task has its inputs"
                gone = f"namespace {handle.ns!r} is not loaded any more, or cannot run"
                reason = gone if info is None else misfit(info, handle.inputs)
                if reason is None and handle.renewals > RENEWALS_MAX:
                    reason = f"namespace {handle.ns!r} was redefined {RENEWALS_MAX} times while the task was submitted"
                if info is None or reason is not None:
                    why = f"the namespace was redefined: {reason}; enqueue the task again to fit"
                    self._refuse(handle, ErrorCode.REFUSED, why, wakes)
                else:
                    self._gather(handle, info)
            self._after_settling(wakes)
        self.carry()
        _wake(wakes)

    # ---- under the lock

    def _met_again(self, handle: Handle, known: Handle) -> Handle | None:
        """An id that is in the table already: the handle to submit, or None if that has been done."""
        if not known.fingerprint or known.refused:
            self._kept.drop(known.id)
        if known.refused:
            return handle  # nothing was kept of it, so this is another try
        if not known.fingerprint:
            # Another client's task. Whether it is the same is for the peer to say; who waits for it goes on waiting.
            known.ns, known.inputs, known.nbytes, known.fingerprint = (
                handle.ns, handle.inputs, handle.nbytes, handle.fingerprint,
            )  # fmt: skip
            return known
        if known.fingerprint != handle.fingerprint:
            text = f"task {known.id} was enqueued already with other inputs; give each task an id of its own"
            known.conflict = ErrorInfo(code=ErrorCode.CONFLICT, message=text, context=ErrorContext(task=known.id))
            self._refusals[known.id] = known.conflict
        return None

    def _gather(self, handle: Handle, info: NamespaceInfo) -> None:
        buffer = self._buffers.get(info.ns)
        if buffer is not None and buffer.info.digest != info.digest:
            self._take(buffer)
            buffer = None
        is_alone = handle.nbytes >= BATCH_NBYTES_MAX
        if is_alone and buffer is not None:
            self._take(buffer)  # in the order of arrival
            buffer = None
        if buffer is None:
            if is_alone or not self._unanswered:
                self._leave(info, (handle,))
                return
            buffer = self._buffers[info.ns] = Buffer(info)
        buffer.handles.append(handle)
        buffer.nbytes += handle.nbytes
        if not self._unanswered or len(buffer.handles) >= BATCH_TASKS_MAX or buffer.nbytes >= BATCH_NBYTES_MAX:
            self._take(buffer)

    def _take(self, buffer: Buffer) -> None:
        del self._buffers[buffer.info.ns]
        leaving = []
        for handle in buffer.handles:
            if handle.pending and handle.abandoned:
                self._settle(handle)
                self._tasks.pop(handle.id, None)
            elif handle.pending:
                leaving.append(handle)
        if leaving:
            self._leave(buffer.info, leaving)

    def _leave(self, info: NamespaceInfo, handles: Sequence[Handle]) -> None:
        ids, fingerprints, inputs = [], [], []
        for handle in handles:
            assert handle.inputs is not None, "a pending task has its inputs"
            handle.sent = True
            ids.append(handle.id)
            fingerprints.append(handle.fingerprint)
            inputs.append(handle.inputs)
        self._unanswered += len(ids)
        self._out.staged.append(Batch(info, tuple(ids), tuple(fingerprints), tuple(inputs), self._cache))

    def _take_all(self) -> None:
        for buffer in list(self._buffers.values()):
            self._take(buffer)

    def _settle(self, handle: Handle) -> None:
        """Accepted, refused or ended: it is pending no more."""
        del self._pending[handle.id]
        self._pending_nbytes -= handle.nbytes
        self._unanswered -= handle.sent
        handle.pending = handle.sent = False
        handle.inputs = None

    def _after_settling(self, wakes: Wakes) -> None:
        if self._buffers and not self._unanswered:
            self._take_all()
        if self._barriers:
            oldest = self._oldest()
            wakes += [(box, True) for seq, box in self._barriers if oldest > seq]
            self._barriers = [entry for entry in self._barriers if oldest <= entry[0]]
        if self._room and len(self._pending) < self._window:
            wakes += [(box, True) for box in self._room]
            self._room = []

    def _oldest(self) -> float:
        """The number of the oldest pending task."""
        for handle in self._pending.values():
            return handle.seq
        return float("inf")

    def _refuse(self, handle: Handle, code: ErrorCode, message: str, wakes: Wakes) -> None:
        self._settle(handle)
        error = ErrorInfo(code=code, message=message, context=ErrorContext(task=handle.id))
        if handle.outcome is not None:
            handle.conflict = error
            return
        handle.refused = True
        handle.outcome = local_end(handle.id, handle.ns, TaskStatus.ERROR, error)
        if handle.private:
            self._drop(handle, wakes)
            return
        self._refusals[handle.id] = error
        wakes += [(box, handle) for box in handle.watchers]
        handle.watchers = ()

    def _discard(self, handles: Sequence[Handle]) -> None:
        """End tasks and forget them everywhere, without waiting for it."""
        ids = tuple(handle.id for handle in handles)
        for task in ids:
            self._tasks.pop(task, None)
        if self.fault is None:
            self._out.stage(Cancel(mid=self._out.next_mid(), ids=ids))
            self._out.stage(Clear(mid=self._out.next_mid(), ids=ids))

    def _drop(self, handle: Handle, wakes: Wakes) -> None:
        """Out of the table; whoever waits is told the outcome."""
        if self._tasks.get(handle.id) is handle:
            del self._tasks[handle.id]
        self._kept.drop(handle.id)
        wakes += [(box, handle) for box in handle.watchers]
        handle.watchers = ()

    # ---- without the lock

    def carry(self) -> None:
        if self._out.staged:
            self._out.carry(self.link)


class _Renewal:
    """Waits for the new definition of a namespace, on behalf of tasks that were refused because of it."""

    def __init__(self, session: Session, handles: Sequence[Handle]) -> None:
        self._session = session
        self._handles = handles

    def put(self, item: Item, /) -> None:
        if isinstance(item, Namespaces):
            ns = self._handles[0].ns
            self._session.resubmit(next((info for info in item.infos if info.ns == ns), None), self._handles)


def _wake(wakes: Wakes) -> None:
    for box, item in wakes:
        box.put(item)


def _again(fault: ClusterError) -> ClusterError:
    """A copy to raise, as each raising adds to an exception's traceback."""
    return ClusterError(*fault.args)
