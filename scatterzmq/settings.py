"""Every setting of a peer, with its unit and the reason for its default. Values are checked where they enter.

`Settings.of(mapping)` takes nested sections ({"store": {"bytes": ...}}) and names the key that is wrong.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Self, get_type_hints

from .errors import ConfigError

MIB = 1 << 20
SECONDS_MAX = 1e9
"""Thirty years. Infinity is no number of milliseconds."""


def setting(default: Any, *, low: float | None = None, high: float | None = None, choices: tuple[str, ...] = ()) -> Any:
    """A field with bounds: low <= value <= high, or one of `choices`."""
    return field(default=default, metadata={"low": low, "high": high, "choices": choices})


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutorSettings:
    """count: executors per peer; one keeps all cores busy, because torch runs its own threads.
    batch_size: most tasks per batch; 32 amortises the cost per batch without hurting latency.
    device: torch device of the executors.
    kind: "thread" (in this process), "inline" (in the caller's thread while it waits, for debuggers), or "process" (a
        child for each, so that what kills it kills nothing else; for peers of their own).
    max_exec_s: longest time one batch may take before its executor is given up.
    node_memory_bytes: how much loaded nodes may hold per executor process, by their load cost.
    """

    count: int = setting(1, low=1, high=1024)
    batch_size: int = setting(32, low=1, high=65536)
    device: str = "cpu"
    kind: str = setting("thread", choices=("thread", "inline", "process"))
    max_exec_s: float = setting(600.0, low=0.001, high=SECONDS_MAX)
    node_memory_bytes: int = setting(4096 * MIB, low=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSettings:
    """mode: what bounds intermediate tensors: "size" (bytes), "time" (ttl_s), or "both".
    bytes: of intermediate tensors. ttl_s: how long one is held at most.
    inline_bytes: tensors up to this size travel with the message that names them.
    record_bytes: of inputs and results, which are never evicted; when full, enqueueing waits.
    """

    mode: str = setting("size", choices=("size", "time", "both"))
    bytes: int = setting(1024 * MIB, low=0)
    ttl_s: float = setting(600.0, low=0.001, high=SECONDS_MAX)
    inline_bytes: int = setting(16384, low=0)
    record_bytes: int = setting(4096 * MIB, low=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSettings:
    """max_retries: restarts before a task ends in an error. poison_limit: lost executors before it is poison.
    result_ttl_s: how long a result is kept that nobody clears.
    window: tasks a client has under way to be accepted; beyond it enqueueing waits.
    refuse_after_s: how long a full peer lets a task wait to be accepted before it refuses it.
    """

    max_retries: int = setting(10, low=0, high=1000)
    poison_limit: int = setting(3, low=1, high=100)
    result_ttl_s: float = setting(3600.0, low=0.001, high=SECONDS_MAX)
    window: int = setting(4096, low=1)
    refuse_after_s: float = setting(10.0, low=0.0, high=SECONDS_MAX)


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSettings:
    """enabled: False computes everything. bytes: of cached values, least recently used out first.
    use_defer: False computes what another task is computing already (hits only).
    """

    enabled: bool = True
    bytes: int = setting(256 * MIB, low=0)
    use_defer: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSettings:
    """name: peers of other clusters are refused. replicas: on how many peers a task is kept; min_replicas: with fewer
    peers alive tasks are refused (1: work goes on with what is there and says so).
    peers_max: every peer is linked with every other, which is not for more.
    """

    name: str = "default"
    replicas: int = setting(2, low=1, high=8)
    min_replicas: int = setting(1, low=1, high=8)
    peers_max: int = setting(128, low=1, high=128)


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSettings:
    """bind: address to listen at; anything but loopback is open to everybody who can reach it, see insecure_lan.
    port: of the control socket; 0 takes any that is free. port_range: "low-high", from which all other ports are taken;
    "" for any. advertise: host name or address under which others reach this peer; "" for the one it is bound to.
    join: addresses ("tcp://host:port") of peers that may be there, tried for ever. zeroconf: find peers, and be found,
    by multicast. interfaces: addresses of the interfaces for that; none for all.
    insecure_lan: whether to listen at more than loopback though nothing is encrypted.
    outbox_bytes: of messages that wait for one slow peer or client; what is beyond is dropped and asked for again.
    """

    bind: str = "127.0.0.1"
    port: int = setting(7411, low=0, high=65535)
    port_range: str = ""
    advertise: str = ""
    join: tuple[str, ...] = ()
    zeroconf: bool = True
    interfaces: tuple[str, ...] = ()
    insecure_lan: bool = False
    outbox_bytes: int = setting(256 * MIB, low=MIB)


@dataclass(frozen=True, slots=True, kw_only=True)
class TimingSettings:
    """heartbeat_s: between two signs of life. suspect_s / dead_s: of silence before a peer gets no new work / is held
    to be dead (if somebody else misses it, too); pause_s: a gap of the own clock longer than this is no silence of
    others. suspect_s > pause_s, so that a short halt of one machine does not look like the end of another.
    ask_s: before a request is repeated. copy_s: before a silent peer is replaced as the holder of copies; less than
    dead_s, so that one dead peer does not stop the acceptance of tasks.
    lease_s: before a batch that nobody renews is lent again; renewed three times as often.
    wait_s: before a task that waits for another one's result asks again. sync_s: between comparisons of copies.
    tombstone_s: how long a deleted task is remembered; longer than any peer may be away and come back.
    grace_s: how long after its own start a peer takes nobody for dead whom it has not seen since.
    drain_s: how long a leaving peer waits for its batches.
    """

    heartbeat_s: float = setting(1.0, low=0.01, high=60.0)
    suspect_s: float = setting(2.5, low=0.01, high=600.0)
    dead_s: float = setting(5.0, low=0.01, high=600.0)
    pause_s: float = setting(2.0, low=0.01, high=600.0)
    ask_s: float = setting(1.0, low=0.01, high=60.0)
    copy_s: float = setting(2.0, low=0.01, high=600.0)
    lease_s: float = setting(15.0, low=0.1, high=3600.0)
    wait_s: float = setting(10.0, low=0.1, high=3600.0)
    sync_s: float = setting(30.0, low=0.1, high=3600.0)
    tombstone_s: float = setting(86400.0, low=1.0, high=SECONDS_MAX)
    grace_s: float = setting(60.0, low=0.0, high=3600.0)
    drain_s: float = setting(20.0, low=0.0, high=3600.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class StrategySettings:
    """node, queue: a built-in name or the module of a plug-in (allowed by plugins.allow)."""

    node: str = "simple"
    queue: str = "simple"


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobSettings:
    """dir: folder of read-only data; None makes one for this run. packages: installed packages whose data files
    a graph may read (as "package/path/in/it"); "*" allows all.
    """

    dir: str | None = None
    packages: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalSettings:
    """dir: folder of the journal. mode: "off"; "batch" (written in groups: a process may die and nothing is lost, a
    loss of power takes what is younger than about 50 ms); "sync" (on disk before anything is acknowledged).
    """

    dir: str | None = None
    mode: str = setting("off", choices=("off", "batch", "sync"))


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginSettings:
    """allow: prefixes of modules that may be imported for kinds and plug-ins ("my_package" covers all below it)."""

    allow: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All sections."""

    executor: ExecutorSettings = field(default_factory=ExecutorSettings)
    store: StoreSettings = field(default_factory=StoreSettings)
    tasks: TaskSettings = field(default_factory=TaskSettings)
    cache: CacheSettings = field(default_factory=CacheSettings)
    cluster: ClusterSettings = field(default_factory=ClusterSettings)
    network: NetworkSettings = field(default_factory=NetworkSettings)
    timing: TimingSettings = field(default_factory=TimingSettings)
    strategy: StrategySettings = field(default_factory=StrategySettings)
    blobs: BlobSettings = field(default_factory=BlobSettings)
    journal: JournalSettings = field(default_factory=JournalSettings)
    plugins: PluginSettings = field(default_factory=PluginSettings)

    @classmethod
    def of(cls, sections: Mapping[str, Any], source: str = "settings") -> Self:
        """Check and convert. Raises ConfigError naming source, key, what was expected and what came."""
        made: Self = _build(cls, sections, source, "")
        return made


def _build(cls: Any, given: object, source: str, prefix: str) -> Any:
    if not isinstance(given, Mapping):
        where = f"{source}: {prefix.rstrip('.')}" if prefix else source
        raise ConfigError(f"{where}: expected a section of settings, got {given!r}")
    known = {entry.name: entry for entry in fields(cls)}
    for key in given:
        if key not in known:
            raise ConfigError(f"{source}: unknown key {prefix}{key}; known here are {', '.join(sorted(known))}")
    hints = get_type_hints(cls)
    values = {}
    for key, value in given.items():
        kind = hints[key]
        if is_dataclass(kind):
            values[key] = _build(kind, value, source, f"{prefix}{key}.")
        else:
            values[key] = _checked(value, kind, known[key].metadata, f"{source}: {prefix}{key}")
    return cls(**values)


def _checked(value: Any, kind: Any, bounds: Mapping[str, Any], where: str) -> Any:
    expected = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "a text",
        str | None: "a text or nothing",
        tuple[str, ...]: "a list of texts",
    }[kind]
    if kind == tuple[str, ...]:
        fits = isinstance(value, (list, tuple)) and all(isinstance(entry, str) for entry in value)
        value = tuple(value) if fits else value
    elif kind == str | None:
        fits = value is None or isinstance(value, str)
    elif kind is float:
        fits = isinstance(value, (int, float)) and not isinstance(value, bool)
    else:
        fits = isinstance(value, kind) and not (kind is int and isinstance(value, bool))
    if not fits:
        raise ConfigError(f"{where}: expected {expected}, got {value!r}")
    choices, low, high = bounds.get("choices", ()), bounds.get("low"), bounds.get("high")
    if choices and value not in choices:
        raise ConfigError(f"{where}: expected one of {', '.join(choices)}, got {value!r}")
    if low is not None and not value >= low:
        raise ConfigError(f"{where}: expected at least {low}, got {value!r}")
    if high is not None and not value <= high:
        raise ConfigError(f"{where}: expected at most {high}, got {value!r}")
    return float(value) if kind is float else value
