"""Every setting of a peer, with its unit and the reason for its default. Values are checked where they enter.

`Settings.of(mapping)` takes nested sections ({"store": {"bytes": ...}}) and names the key that is wrong. What is said
about each key here is what `config/peer.toml` says; a test compares them.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from ipaddress import ip_address
from typing import Any, Self, TypeAlias, get_type_hints

from .errors import ConfigError

KIB = 1 << 10
MIB = 1 << 20
SECONDS_MAX = 1e9
"""Thirty years. Infinity is no number of milliseconds."""

Where: TypeAlias = Callable[..., str]
"""where("store.bytes") is the beginning of a complaint about that key: where its value came from, and the key.

where("") is about everything. With more keys, the value of any of them may be what has to change.
"""


def setting(default: Any, *, low: float | None = None, high: float | None = None, choices: tuple[str, ...] = ()) -> Any:
    """A field with bounds: low <= value <= high, or one of `choices`."""
    return field(default=default, metadata={"low": low, "high": high, "choices": choices})


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutorSettings:
    """count: executors per peer; one keeps all cores busy, because torch runs its own threads.
    batch_size: most tasks per batch; 32 amortises the cost per batch without hurting latency.
    batch_bytes: of the newest tensors of the tasks in a batch, unless its node has a batch_size of its own; more saves
        nothing, takes work from others, and needs new memory each time.
    device: torch device of the executors: "cpu", "cuda", "cuda:1" or "mps"; every machine has the first.
    kind: "process" (a child for each, so that what kills it kills nothing else), "thread" (in this process, as
        scatterzmq.local() has it), or "inline" (in the caller's thread while it waits, for debuggers; there only).
    max_exec_s: longest time one batch may take before its executor is given up; what takes ten minutes hangs.
    node_memory_bytes: how much loaded nodes may hold per executor process, by their load cost; with one executor that
        leaves room for the rest on a machine of 8 GiB.
    """

    count: int = setting(1, low=1, high=1024)
    batch_size: int = setting(32, low=1, high=65536)
    batch_bytes: int = setting(16 * MIB, low=0)
    device: str = "cpu"
    kind: str = setting("process", choices=("process", "thread", "inline"))
    max_exec_s: float = setting(600.0, low=0.001, high=SECONDS_MAX)
    node_memory_bytes: int = setting(4096 * MIB, low=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSettings:
    """mode: what bounds intermediate tensors: "size" (bytes), "time" (ttl_s), or "both".
    bytes: of intermediate tensors, the oldest are evicted first; too little costs retries, never memory.
    ttl_s: how long one is held at most, unless mode is "size"; longer than a task waits between two nodes.
    inline_bytes: tensors up to this size travel with the message that names them, because asking for them costs more.
    fetch_bytes: of tensors that are asked of one peer at a time; so much it has to keep ready for a slow link.
    record_bytes: of inputs and results, which are never evicted; when full, enqueueing waits.
    """

    mode: str = setting("size", choices=("size", "time", "both"))
    bytes: int = setting(1024 * MIB, low=0)
    ttl_s: float = setting(600.0, low=0.001, high=SECONDS_MAX)
    inline_bytes: int = setting(16384, low=0)
    fetch_bytes: int = setting(64 * MIB, low=1)
    record_bytes: int = setting(4096 * MIB, low=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSettings:
    """max_retries: restarts before a task ends in an error; enough for a bad day, and a hopeless task does not circle
        for ever.
    poison_limit: executors lost in a row before a task is poison and is not run again; three are no accident.
    result_ttl_s: how long a result is kept that nobody clears; an hour, so that a client may be away.
    window: tasks a client has under way to be accepted; beyond it enqueueing waits, so that its memory is bounded.
    refuse_after_s: how long a full peer lets a task wait to be accepted before it refuses it; most jams end sooner.
    """

    max_retries: int = setting(10, low=0, high=1000)
    poison_limit: int = setting(3, low=1, high=100)
    result_ttl_s: float = setting(3600.0, low=0.001, high=SECONDS_MAX)
    window: int = setting(4096, low=1)
    refuse_after_s: float = setting(10.0, low=0.0, high=SECONDS_MAX)


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSettings:
    """enabled: without it everything is computed, also what was computed before.
    bytes: of cached values, least recently used out first; beside the store and the records that is little.
    use_defer: whether a task waits for another one that computes the same already; without it there are hits only.
    """

    enabled: bool = True
    bytes: int = setting(256 * MIB, low=0)
    use_defer: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSettings:
    """name: peers of other clusters are refused, so that two of them in one network do not mix.
    replicas: on how many peers a task is kept; with 2 any one of them may die.
    min_replicas: with fewer peers alive tasks are refused; with 1 work goes on with what is there, and that is said.
    peers_max: every peer is linked with every other, which is not for more.
    """

    name: str = "default"
    replicas: int = setting(2, low=1, high=8)
    min_replicas: int = setting(1, low=1, high=8)
    peers_max: int = setting(128, low=1, high=128)


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSettings:
    """bind: address to listen at; anything but loopback is open to everybody who can reach it, see insecure_lan.
    port: of the control socket; 0 takes any that is free. A fixed one is easier to join and to let through firewalls.
    port_range: "low-high", from which all other ports are taken, for firewalls; "" for any that are free.
    advertise: host name or address under which others reach this peer; "" for the one it is bound to.
    join: addresses ("tcp://host:port") of peers that may be there, tried for ever, for networks without multicast.
    zeroconf: find peers, and be found, by multicast, so that nothing else has to be set up in one network.
    interfaces: addresses of the interfaces for that; none for all.
    insecure_lan: whether to listen at more than loopback though nothing is encrypted; somebody has to mean that.
    outbox_bytes: of messages that wait for one slow peer or client; what is beyond is dropped and asked for again, so
        that a slow one costs bounded memory.
    message_bytes: of one message; 2 MiB less is what a task may have as its input, its result, or of one step. More is
        refused with an error. The same at all peers: each drops what is longer.
    partial_bytes: of messages in pieces of which some have not come yet, of all senders together. Beyond it those that
        were begun last are dropped and have to be said again; members of the cluster last.
    batch_bytes: of tensors in one message about a batch of another peer; a batch that has more goes with fewer tasks,
        and results that have more in several messages, so that large tensors cost bounded memory.
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
    message_bytes: int = setting(256 * MIB, low=4 * MIB, high=1024 * 1024 * MIB)
    partial_bytes: int = setting(1024 * MIB, low=4 * MIB)
    batch_bytes: int = setting(64 * MIB, low=0)


def row_bytes(message_bytes: int) -> int:
    """Of the tensors of one task that a message may carry: what goes with them needs room, too."""
    return message_bytes - 2 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class TimingSettings:
    """heartbeat_s: between two signs of life; a hundred peers send little at one per second.
    suspect_s: of silence before a peer gets no new work; more than two heartbeats, and more than pause_s, so that a
        short halt of one machine does not look like the end of another.
    dead_s: of silence before a peer is held to be dead, if somebody else misses it, too; then its tasks are taken over.
    pause_s: a gap of the own clock longer than this is no silence of others: this machine was halted, not they.
    ask_s: before a request is repeated; longer than any answer takes in one network.
    copy_s: before a silent peer is replaced as the holder of copies; less than dead_s, so that one dead peer does not
        stop the acceptance of tasks.
    lease_s: before a batch that nobody renews is lent again; it is renewed three times as often.
    wait_s: before a task that waits for another one's result asks again, in case it was not told.
    sync_s: between comparisons of copies, which repair whatever else was missed.
    tombstone_s: how long a deleted task is remembered; longer than any peer may be away and come back.
    grace_s: how long after its own start a peer takes nobody for dead whom it has not seen since: they may be starting.
    drain_s: how long a leaving peer waits for its batches; supervisors kill what takes longer than 30 s.
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
    """node: which node an executor turns to: "simple" (most urgent queue for its load cost), "dedicated" (spread over
        the nodes), or the module of a plug-in (allowed by plugins.allow).
    queue: which task of a queue is first: "simple" (furthest along, then most often restarted), or such a module.
    """

    node: str = "simple"
    queue: str = "simple"


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobSettings:
    """dir: folder of read-only data; none ("") makes one for this run, so that nothing is left behind.
    packages: installed packages whose data files a graph may read (as "package/path/in/it"); "*" allows all. None by
        itself, because whoever can send a graph can then read them.
    """

    dir: str | None = None
    packages: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalSettings:
    """dir: folder of the journal; none ("") where nothing is kept on disk.
    mode: "off"; "batch" (written in groups: a process may die and nothing is lost, a loss of power takes what is
        younger than about 50 ms); "sync" (on disk before anything is acknowledged). Off needs no folder and no disk.
    """

    dir: str | None = None
    mode: str = setting("off", choices=("off", "batch", "sync"))


@dataclass(frozen=True, slots=True, kw_only=True)
class EventSettings:
    """listeners: who is told what happens: "stdout" (a line for people), "stdout-json" (JSON lines), "file:PATH" (JSON
        lines), or the module of a plug-in (allowed by plugins.allow). Embedded peers tell nobody by themselves.
    disable: patterns of events that nobody is told: "debug" all whose names begin so, ".task" all with that part
        anywhere, "!debug.task" none the less. What happens for each task or batch is too much to be told always.
    measure_s: how often the queues are measured, if anybody is told; people and graphs need no more.
    record: file into which a peer writes everything that it decides upon, without tensors, so that
        `python -m scatterzmq.sim replay` shows its life again; "" for none. What was there is kept as FILE.1.
    record_bytes: of that file at most; then the recording ends, and the peer goes on. A task takes a few kilobytes.
    """

    listeners: tuple[str, ...] = ("stdout",)
    disable: tuple[str, ...] = ("debug", "measure", "cache")
    measure_s: float = setting(5.0, low=0.1, high=SECONDS_MAX)
    record: str | None = None
    record_bytes: int = setting(256 * MIB, low=64 * KIB)


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthSettings:
    """bind: address of the HTTP endpoint that says how the peer is; loopback, because it asks nobody who they are.
    port: of that; 0 for none, because two peers of one machine cannot both have the same. A taken one is a warning.
    """

    bind: str = "127.0.0.1"
    port: int = setting(0, low=0, high=65535)


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginSettings:
    """allow: prefixes of modules that may be imported for kinds and plug-ins ("my_package" covers all below it);
    none by themselves, because a graph names them.
    """

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
    events: EventSettings = field(default_factory=EventSettings)
    health: HealthSettings = field(default_factory=HealthSettings)
    plugins: PluginSettings = field(default_factory=PluginSettings)

    @classmethod
    def of(cls, sections: Mapping[str, Any], source: str = "settings") -> Self:
        """Check and convert. Raises ConfigError naming source, key, what was expected and what came."""

        def where(key: str, *_: str) -> str:
            return f"{source}: {key}" if key else source

        return cls.made(checked(sections, where), where)

    @classmethod
    def made(cls, values: Mapping[str, Mapping[str, Any]], where: Where) -> Self:
        """Of values that `checked` has checked one by one. Raises ConfigError if two of them do not fit each other."""
        hints = get_type_hints(cls)
        settings = cls(**{section: hints[section](**of_section) for section, of_section in values.items()})
        for complaint in _misfits(settings, where):
            raise ConfigError(complaint)
        return settings


def checked(sections: object, where: Where) -> dict[str, dict[str, Any]]:
    """What is given, each value checked and converted. Raises ConfigError."""
    hints = get_type_hints(Settings)
    given = _section(sections, "", list(hints), where)
    return {section: _checked_section(section, hints[section], values, where) for section, values in given.items()}


def known_keys() -> dict[str, Any]:
    """All keys ("store.bytes") and the types of their values."""
    return {
        f"{section}.{key}": kind
        for section, cls in get_type_hints(Settings).items()
        for key, kind in get_type_hints(cls).items()
    }


def _section(given: object, prefix: str, known: list[str], where: Where) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        raise ConfigError(f"{where(prefix.rstrip('.'))}: expected a section of settings, got {given!r}")
    for key in given:
        if key not in known:
            raise ConfigError(f"{where('')}: unknown key {prefix}{key}{likely(str(key), known)}")
    return given


def likely(wrong: str, known: list[str]) -> str:
    """The end of a complaint about an unknown name: what may have been meant, and what there is."""
    close = get_close_matches(wrong, known, n=1)
    meant = f"; did you mean {close[0]}?" if close else ";"
    return f"{meant} known here are {', '.join(sorted(known))}"


def _checked_section(section: str, cls: Any, given: object, where: Where) -> dict[str, Any]:
    known = {entry.name: entry for entry in fields(cls)}
    hints = get_type_hints(cls)
    return {
        key: _checked(value, hints[key], known[key].metadata, where(f"{section}.{key}"), is_size=is_size(key))
        for key, value in _section(given, f"{section}.", list(known), where).items()
    }


def is_size(key: str) -> bool:
    """Whether a key counts bytes, which may be given as a text with a unit."""
    return key.rpartition("_")[2] == "bytes" or key.rpartition(".")[2] == "bytes"


def _checked(value: Any, kind: Any, bounds: Mapping[str, Any], where: str, *, is_size: bool) -> Any:
    expected = _EXPECTED[kind]
    if is_size:
        expected = "a number of bytes, or a text such as '512MiB'"
        value = size_of(value) if isinstance(value, str) else value
    if kind == tuple[str, ...]:
        fits = isinstance(value, (list, tuple)) and all(isinstance(entry, str) for entry in value)
        value = tuple(value) if fits else value
    elif kind == str | None:
        fits = value is None or isinstance(value, str)
        value = None if value == "" else value  # TOML has no other way to say so
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


_EXPECTED: Mapping[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    str | None: "a text or nothing",
    tuple[str, ...]: "a list of texts",
}

_SIZE = re.compile(r"(\d{1,18})(?:\.(\d{1,3}))? ?(?:([kmgt])(i?))?b?", re.ASCII | re.IGNORECASE)


def size_of(text: str) -> int | str:
    """The bytes of "512MiB", "1.5 GB" or "4096"; the text itself if it is no size.

    kB, MB, GB, TB are powers of 1000; KiB, MiB, GiB, TiB of 1024. "4G" could be either and is none.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None or (found[3] and text.strip()[-1] not in "bB"):
        return text
    power = " kmgt".index(found[3].lower()) if found[3] else 0
    unit: int = (1024 if found[4] else 1000) ** power
    digits = found[2] or ""
    shift: int = 10 ** len(digits)
    return (int(found[1]) * shift + int(digits or 0)) * unit // shift


# ---- what must fit each other

_BELOW = (
    ("timing.heartbeat_s", "timing.suspect_s", "a peer that is well must not look silent"),
    ("timing.pause_s", "timing.suspect_s", "a short halt of one machine must not look like the end of another"),
    ("timing.suspect_s", "timing.dead_s", "a silent peer is doubted before it is given up"),
    ("timing.copy_s", "timing.dead_s", "one dead peer must not stop the acceptance of tasks"),
)
"""(less, more, why)"""


def _misfits(settings: Settings, where: Where) -> Iterator[str]:
    def value(key: str) -> Any:
        section, _, name = key.partition(".")
        return getattr(getattr(settings, section), name)

    for less, more, why in _BELOW:
        if not value(less) < value(more):
            yield f"{where(less, more)}: expected less than {more} ({value(more)}), got {value(less)}: {why}"
    cluster, network, health = settings.cluster, settings.network, settings.health
    if cluster.min_replicas > cluster.replicas:
        place = where("cluster.min_replicas", "cluster.replicas")
        yield f"{place}: expected at most cluster.replicas ({cluster.replicas}), got {cluster.min_replicas}"
    if network.partial_bytes < network.message_bytes:
        yield (
            f"{where('network.partial_bytes', 'network.message_bytes')}: expected at least network.message_bytes "
            f"({network.message_bytes}), got {network.partial_bytes}: one message has to find room"
        )
    if network.port_range and not _is_range(network.port_range):
        yield f"{where('network.port_range')}: expected 'low-high' within 1-65535, got {network.port_range!r}"
    if health.port and health.port == network.port:
        place = where("health.port", "network.port")
        yield f"{place}: expected another port than network.port, got {health.port} for both"
    for key in ("network.bind", "health.bind"):
        if not (network.insecure_lan or is_loopback(value(key))):
            yield (
                f"{where(key, 'network.insecure_lan')}: {value(key)!r} is open to everybody who can reach it, and "
                "nothing is encrypted; set network.insecure_lan if that is meant"
            )


def _is_range(text: str) -> bool:
    found = re.fullmatch(r"(\d{1,5})-(\d{1,5})", text, re.ASCII)
    return found is not None and 1 <= int(found[1]) <= int(found[2]) <= 65535


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address. A host name other than localhost may be anything."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
