"""Faults: what goes wrong, when, and how it ends. Each kind has lots of its own, so that one less changes no other."""

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from ..core.actions import BatchOrder

if TYPE_CHECKING:
    from .process import Process
    from .world import World

RATE_LOW, RATE_HIGH = 724, 1448
"""0.7 to 1.4 times the right rate. Of two clocks one may be twice as fast: if it were 2.5 times, a sign of life each
second would come later than the time after which its sender is suspected, and nobody would give it work."""
_MINUTE_US = 60_000_000
_DEAFENING = frozenset(("cut", "one_way", "isolate", "clog", "swizzle", "pause", "jump"))
_DEAF_US = 40_000_000
"""The longest that one of these lasts."""
_DEATHS_MAX = 2
"""A simulated accident must not look like poison: nobody's executor dies more often than this by chance."""


class Faults:
    """All faults of one run."""

    def __init__(self, world: "World", rates: dict[str, float]) -> None:
        self._world = world
        self._rates = rates
        self._chance = {kind: Random(f"{world.options.seed}:fault:{kind}") for kind in rates}
        self._over = False
        self._strike: dict[str, Callable[[Random], None]] = {
            "reset": self._reset,
            "cut": self._cut,
            "one_way": self._one_way,
            "isolate": self._isolate,
            "clog": self._clog,
            "swizzle": self._swizzle,
            "crash": self._crash,
            "bounce": self._bounce,
            "pause": self._pause,
            "leave": self._leave,
            "disk_full": self._disk_full,
            "power": self._power,
            "exec_exit": self._exec_exit,
            "evict": self._evict,
            "jump": self._jump,
            "stale_seen": self._stale_seen,
            "client_crash": self._client_crash,
            "client_reset": self._client_reset,
        }

    def start(self) -> None:
        """Plan the first of each kind."""
        for kind in self._rates:
            if kind in self._strike:
                self._plan(kind)

    def end(self) -> None:
        """Nothing goes wrong from now on."""
        self._over = True
        self._rates.clear()

    def happens(self, kind: str) -> bool:
        """Whether a fault strikes here and now, for those that go by chance."""
        rate = self._rates.get(kind, 0.0)
        if rate and self._chance[kind].random() < rate:
            self._world.fired[kind] += 1
            return True
        return False

    def rate(self, kind: str) -> int:
        """The rate of a clock, or 0 for the right one."""
        if kind not in self._rates:
            return 0
        self._world.fired[kind] += 1
        return self._chance[kind].randint(RATE_LOW, RATE_HIGH)

    def fate(self, process: "Process", order: BatchOrder, work: Random) -> tuple[str, int]:
        """What becomes of a batch, and how long it takes."""
        options = self._world.options
        duration_ms = work.uniform(0.1, 2.0) * options.exec_ms
        if self.happens("exec_slow"):
            duration_ms = min(duration_ms * 100, order.max_exec_ms * 0.4)
        deaths = self._world.checkers.deaths
        may_die = max([deaths[task] for task in order.tasks]) < _DEATHS_MAX
        fate = ""
        if may_die and self.happens("exec_crash"):
            fate = "crash"
        elif may_die and self.happens("exec_hang"):
            fate = "hang"
        elif self.happens("exec_raise"):
            fate = "raise"
        return fate, int(duration_ms * 1000 * 1024 / process.clock.rate)

    # ---- kinds that strike at their own times

    def _plan(self, kind: str) -> None:
        wait_us = self._chance[kind].expovariate(self._rates[kind] / _MINUTE_US)
        self._world.at(self._world.now_us + int(wait_us) + 1, self._strikes, kind)

    def _strikes(self, kind: str) -> None:
        if not self._over:
            self._strike[kind](self._chance[kind])
            self._plan(kind)

    def _fire(self, kind: str, text: str) -> None:
        self._world.fired[kind] += 1
        self._world.trace.note(self._world.now_us, "world", f"{kind}: {text}")
        if kind in _DEAFENING:
            self._world.network_broken_us = self._world.now_us + _DEAF_US

    def _later(self, chance: Random, low_ms: int, high_ms: int, what: Callable[..., None], *args: object) -> None:
        """At some moment between these, mostly early."""
        span = int(low_ms * (high_ms / low_ms) ** chance.random())
        self._world.at(self._world.now_us + span * 1000, what, *args)

    def _someone(self, chance: Random) -> "Process | None":
        alive = self._world.alive()
        return chance.choice(alive) if alive else None

    def _pair(self, chance: Random) -> tuple[str, str] | None:
        """Two addresses, at least one of a peer."""
        world = self._world
        peers = [process.address for process in world.alive()]
        others = peers + [client.address for client in world.clients]
        if not peers or len(others) < 2:
            return None
        left = chance.choice(peers)
        return left, chance.choice([other for other in others if other != left])

    def _reset(self, chance: Random) -> None:
        if pair := self._pair(chance):
            self._fire("reset", f"{pair}")
            self._world.network.reset(*pair)

    def _cut(self, chance: Random) -> None:
        if pair := self._pair(chance):
            self._fire("cut", f"{pair}")
            self._cut_ways(chance, [pair, (pair[1], pair[0])])

    def _one_way(self, chance: Random) -> None:
        if pair := self._pair(chance):
            way = pair if chance.random() < 0.5 else (pair[1], pair[0])
            self._fire("one_way", f"{way}")
            self._cut_ways(chance, [way])

    def _isolate(self, chance: Random) -> None:
        one = self._someone(chance)
        if one is None:
            return
        world = self._world
        others = [process.address for process in world.alive() if process is not one]
        if chance.random() < 0.5:
            others += [client.address for client in world.clients]
        self._fire("isolate", one.name)
        self._cut_ways(chance, [way for other in others for way in ((one.address, other), (other, one.address))])

    def _cut_ways(self, chance: Random, ways: list[tuple[str, str]]) -> None:
        for way in ways:
            self._world.network.cut(*way)
        self._later(chance, 200, 30_000, self._heal, ways)

    def _heal(self, ways: list[tuple[str, str]]) -> None:
        for way in ways:
            self._world.network.heal(*way)

    def _clog(self, chance: Random) -> None:
        if pair := self._pair(chance):
            self._fire("clog", f"{pair}")
            self._world.network.clog(*pair)
            self._later(chance, 100, 10_000, self._world.network.unclog, *pair)

    def _swizzle(self, chance: Random) -> None:
        """FoundationDB's: clog some, one after another, and unclog them in another order."""
        world = self._world
        addresses = [process.address for process in world.alive()]
        some = [address for address in addresses if chance.random() < 0.5]
        self._fire("swizzle", f"{some}")
        everybody = addresses + [client.address for client in world.clients]
        for address in some:
            ways = [way for other in everybody for way in ((address, other), (other, address)) if other != address]
            self._later(chance, 1, 2_000, self._clog_all, ways)
            self._later(chance, 2_500, 8_000, self._unclog_all, ways)

    def _clog_all(self, ways: list[tuple[str, str]]) -> None:
        if not self._over:
            for way in ways:
                self._world.network.clog(*way)

    def _unclog_all(self, ways: list[tuple[str, str]]) -> None:
        for way in ways:
            self._world.network.unclog(*way)

    def _crash(self, chance: Random) -> None:
        one = self._someone(chance)
        if one is not None:
            self._fire("crash", one.name)
            self._world.crash(one)
            self._later(chance, 500, 60_000, self._world.start, one.place)

    def _bounce(self, chance: Random) -> None:
        one = self._someone(chance)
        if one is not None:
            self._fire("bounce", one.name)
            self._world.crash(one)
            self._later(chance, 1, 1_000, self._world.start, one.place)

    def _disk_full(self, chance: Random) -> None:
        one = self._someone(chance)
        if one is not None and one.disk is not None and not one.disk.is_full:
            self._fire("disk_full", one.name)
            one.disk.is_full = True

    def _power(self, chance: Random) -> None:
        self._fire("power", "")
        for one in self._world.alive():
            self._world.crash(one, power=True)
            self._later(chance, 1, 55_000, self._world.start, one.place)

    def _pause(self, chance: Random) -> None:
        one = self._someone(chance)
        if one is not None and not one.is_paused:
            self._fire("pause", one.name)
            one.pause()
            self._later(chance, 500, 40_000, one.resume)

    def _leave(self, chance: Random) -> None:
        one = self._someone(chance)
        if one is not None:
            self._fire("leave", one.name)
            one.leave()

    def _exec_exit(self, chance: Random) -> None:
        one = self._someone(chance)
        if one is not None and one.executors and not one.is_paused:
            executor = chance.choice(sorted(one.executors))
            self._fire("exec_exit", f"{one.name} {executor}")
            one.lose_executor(executor, crashed=False)

    def _evict(self, chance: Random) -> None:
        one = self._someone(chance)
        if one is not None and not one.is_paused:
            self._fire("evict", one.name)
            one.evict(chance.choice((0.2, 1.0)), chance)

    def _jump(self, chance: Random) -> None:
        one = self._someone(chance)
        if one is not None:
            ms = int(10 ** chance.uniform(1, 6.5))
            self._fire("jump", f"{one.name} {ms} ms")
            one.clock.jump(ms)
            one.jumped()

    def _stale_seen(self, chance: Random) -> None:
        one = self._someone(chance)
        if one is not None:
            address = chance.choice([*self._world.addresses, "nowhere"])
            self._fire("stale_seen", f"{one.name} {address}")
            one.seen(address)

    def _client_crash(self, chance: Random) -> None:
        client = chance.choice(self._world.clients)
        self._fire("client_crash", client.name)
        self._world.replace_client(client)

    def _client_reset(self, chance: Random) -> None:
        client = chance.choice(self._world.clients)
        self._fire("client_reset", client.name)
        for address in self._world.addresses:
            self._world.network.reset(client.address, address)
