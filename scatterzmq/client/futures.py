"""Futures and maps: tasks whose ids nobody needs to know. Such a task is cleared as soon as its outcome is here."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from concurrent.futures import Future, InvalidStateError
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, cast

from ..errors import ClusterError, ConfigError, FormatError, Timeout
from .calls import B, Calls, Steps, must_not_wait
from .handles import Handle, Item
from .response import LazyResult, Result
from .session import Session

if TYPE_CHECKING:
    from ..ids import TaskId

Bar: TypeAlias = AbstractContextManager[Callable[[], None]]
"""A progress bar while it is shown; what it gives is called once per item."""
Help: TypeAlias = Callable[[Callable[[], bool], float | None], None]
"""Does what this thread can do for something to hold, within so many seconds; all of it, for links without a thread."""


class TaskFuture(Future["Result"]):
    """A task's result to come. Works with everything in concurrent.futures; its errors are TaskError and ClusterError.

    task: the id of the task. Cancelling ends it wherever it is, also when it runs already.
    """

    task: "TaskId"

    def __init__(self, session: Session, help_out: Help) -> None:
        super().__init__()
        self._session = session
        self._help_out = help_out
        self._handle: Handle | None = None
        self._lazy: LazyResult | None = None

    def attach(self, handle: Handle) -> None:
        """This is the task it stands for."""
        self._handle = handle
        self.task = handle.id

    def put(self, item: Item, /) -> None:
        """The outcome is here. Runs the callbacks."""
        try:
            if isinstance(item, ClusterError):
                self.set_exception(ClusterError(*item.args))
            elif isinstance(item, Handle) and item.outcome is not None:
                failure = item.outcome.failure
                if failure is not None:
                    self.set_exception(failure)
                else:
                    # Turned into tensors by whoever asks: this thread has the next message to see to.
                    lazy = LazyResult(item.outcome.rows, item.outcome.row)
                    self.set_result(cast("Result", lazy))
                    self._lazy = lazy  # only now, as it may have been cancelled
        except InvalidStateError:
            return  # cancelled in the same moment

    def cancel(self) -> bool:
        if self.done():
            return self.cancelled()
        if self._handle is None or not self._session.abandon(self._handle):
            return self.cancelled()
        if not super().cancel():
            return False  # the client was closed in the same moment
        self.set_running_or_notify_cancel()  # tells as_completed and wait, which `cancel` alone does not
        return True

    def result(self, timeout: float | None = None) -> Result:
        lazy: Any = self._lazy
        if lazy is None:
            self._ready(timeout)
            carriers = self._session.carriers
            carriers.add(self)
            try:
                lazy = super().result(timeout)
            except TimeoutError:
                raise Timeout(f"task {self.task} has not ended within {timeout:g} s; it goes on") from None
            finally:
                carriers.discard(self)  # first: what is staged from here on is carried by whoever stages it
                self._session.carry()
        tensors: Result | None = lazy.tensors()
        assert tensors is not None, "a future has a result or an exception"
        return tensors

    def exception(self, timeout: float | None = None) -> BaseException | None:
        self._ready(timeout)
        try:
            return super().exception(timeout)
        except TimeoutError:
            raise Timeout(f"task {self.task} has not ended within {timeout:g} s; it goes on") from None

    def _ready(self, timeout_s: float | None) -> None:
        if not self.done():
            if self._session.in_delivery:
                raise must_not_wait()
            self._help_out(self.done, timeout_s)


def check_items(items: object, kinds: tuple[type, ...] = (Iterable,)) -> None:
    """Raises FormatError for what `map` cannot go through."""
    if not isinstance(items, kinds):
        raise FormatError(f"map: expected items, each a dict of fields, got {type(items).__name__}")


class Flow(Generic[B]):
    """One `map`: items in, outcomes out, a bounded number of them between.

    Ordered: outcomes leave in the order of the items. Items with wrong fields fail at their place, like others.
    """

    def __init__(self, calls: Calls[B], ns: str, *, window: int, ordered: bool, return_exceptions: bool) -> None:
        if not isinstance(window, int) or window < 1:
            raise ConfigError(f"map: expected a window of at least 1 item, got {window!r:.80}")
        self.box = calls.box()
        self._calls = calls
        self._ns = ns
        self._window = window
        self._ordered = ordered
        self._return_exceptions = return_exceptions
        self._under_way: dict[TaskId, tuple[int, Handle]] = {}
        self._over: dict[int, Handle | FormatError] = {}
        self._next_out: deque[int] = deque()
        self._taken = 0

    @property
    def has_room(self) -> bool:
        return len(self._under_way) + len(self._over) < self._window

    @property
    def is_empty(self) -> bool:
        return not self._under_way and not self._over

    def offer(self, item: Mapping[str, object]) -> Steps[None]:
        """Send off one item."""
        place = self._taken
        self._taken += 1
        if self._ordered:
            self._next_out.append(place)
        try:
            handle = yield from self._calls.enqueue(self._ns, item, watcher=self.box)
        except FormatError as error:
            self._end(place, error)
        else:
            self._under_way[handle.id] = (place, handle)

    def arrived(self, item: Item | None) -> None:
        """Something came into the box."""
        if isinstance(item, Handle):
            place, _ = self._under_way.pop(item.id)
            self._end(place, item)

    @property
    def is_ready(self) -> bool:
        """Whether an outcome can leave."""
        return bool(self._next_out) and self._next_out[0] in self._over

    def take(self) -> "Result | Exception":
        """The next outcome. Raises it if it is an error, unless errors are handed out."""
        over = self._over.pop(self._next_out.popleft())
        error: Exception | None
        if isinstance(over, Handle):
            outcome = over.outcome
            assert outcome is not None, "it has ended"
            error = outcome.failure
            if error is None:
                assert outcome.rows is not None
                return outcome.rows.result(outcome.row)
        else:
            error = over
        if not self._return_exceptions:
            raise error
        return error

    def close(self) -> None:
        """End what is still under way."""
        for _, handle in self._under_way.values():
            self._calls.session.abandon(handle)
        self._under_way = {}

    def _end(self, place: int, over: Handle | FormatError) -> None:
        self._over[place] = over
        if not self._ordered:
            self._next_out.append(place)


def progress_bar(title: str, items: object | None) -> Bar:
    """Shows on stderr how many items are through; None: shows nothing. Raises ConfigError if rich is not installed."""
    if items is None:
        return nullcontext(_nothing)
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    except ImportError:
        raise ConfigError("progress=True needs the package rich: pip install 'scatterzmq[cli]'") from None
    total = len(items) if isinstance(items, Sized) else None
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())

    @contextmanager
    def bar() -> Iterator[Callable[[], None]]:
        with Progress(*columns, console=Console(stderr=True)) as progress:
            task = progress.add_task(title, total=total)
            yield lambda: progress.advance(task)

    return bar()


def _nothing() -> None:
    pass
