"""`scatterzmq peer`: run a peer until it is asked to leave."""

import argparse
import gc
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, ScatterError
from .args import add_command, complain, number, size
from .boot import stay
from .signals import on_ending

if TYPE_CHECKING:
    from ..runtime import GraphFile, PeerProcess
    from ..settings import Settings

_SUMMARY = "Run a peer. Peers of one cluster find each other and share the work."
_USAGE = "[--graph FILE] [--join tcp://HOST:PORT] [options]"
_EXAMPLE = """\
  scatterzmq peer --graph pipeline.json
  scatterzmq peer --bind 0.0.0.0 --insecure-lan --join tcp://host-a:7411"""

_SETTINGS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "executor.device": ("device", "--device"),
        "executor.count": ("executors", "--executors"),
        "executor.batch_size": ("batch_size", "--batch-size"),
        "cluster.name": ("cluster", "--cluster"),
        "network.bind": ("bind", "--bind"),
        "network.port": ("port", "--port"),
        "network.advertise": ("advertise", "--advertise"),
        "network.join": ("join", "--join"),
        "network.insecure_lan": ("insecure_lan", "--insecure-lan"),
        "journal.dir": ("data_dir", "--data-dir"),
        "journal.mode": ("journal", "--journal"),
        "health.port": ("health_port", "--health-port"),
        "plugins.allow": ("allow", "--allow"),
        "events.record": ("record", "--record"),
    }
)
"""Setting -> the option that stands for it: its name among the parsed ones, and on the command line."""

_MEMORY_SHARES: Mapping[str, float] = MappingProxyType(
    {"store.bytes": 0.25, "store.record_bytes": 0.25, "cache.bytes": 0.05, "executor.node_memory_bytes": 0.45}
)
"""Setting -> its share of --max-memory, about as the defaults are to each other on a machine of 8 GiB."""

_FLAG_NAMES: Mapping[str, str] = MappingProxyType(
    {key: option for key, (_, option) in _SETTINGS.items()}
    | dict.fromkeys(_MEMORY_SHARES, "--max-memory")
    | {"network.zeroconf": "--no-zeroconf", "events.listeners": "--json"}
)


def add_to(commands: Any) -> None:
    parser = add_command(commands, "peer", summary=_SUMMARY, usage=_USAGE, example=_EXAMPLE)
    add = parser.add_argument
    add("--config", metavar="FILE", help="settings (TOML or JSON)")
    add("--graph", metavar="PATH", action="append", default=[], help="definition to load, or a folder of them")
    add("--name", metavar="NAME", help="how people call it (default: the host's name)")
    add("--cluster", metavar="NAME", help="peers of other clusters are refused")
    add("--bind", metavar="ADDR", help="address to listen at (default: 127.0.0.1)")
    add("--port", metavar="N", type=number(0), help="control port (default: 7411; 0: any)")
    add("--advertise", metavar="HOST", help="how others reach it")
    add("--join", metavar="ADDR", action="append", help="tcp://host:port of a peer that may be there")
    add("--no-zeroconf", action="store_true", help="neither find others by multicast nor be found")
    add("--insecure-lan", action="store_true", default=None, help="listen beyond loopback though nothing is encrypted")
    add("--executors", metavar="N", type=number(1), help="batches at a time")
    add("--batch-size", metavar="N", type=number(1), help="most tasks per batch")
    add("--device", metavar="NAME", help="cpu, cuda, cuda:1, mps")
    add("--max-memory", metavar="SIZE", type=size, help="for all tensors it holds, as 8GiB")
    add("--data-dir", metavar="DIR", help="keep tasks on disk here, too")
    add("--journal", choices=("off", "batch", "sync"), help="how (default with --data-dir: batch)")
    add("--allow", metavar="MODULE", action="append", help="module of node kinds that may be imported")
    add("--health-port", metavar="N", type=number(0), help="HTTP endpoint at this port")
    add("--version-file", metavar="FILE", help="what /api/info says of your application")
    add("--json", action="store_true", help="events as JSON lines on stdout; the first tells the address")
    add("--record", metavar="FILE", help="write all it decides upon, for: python -m scatterzmq.sim replay FILE")
    add("--no-welcome", action="store_true", help="say nothing when it starts")
    add("--boot", action="store_true", help="stay alive on a start-up error, and say so")
    add("--end-with-parent", action="store_true", help=argparse.SUPPRESS)
    parser.set_defaults(call=run)


def run(options: argparse.Namespace) -> int:
    """Be a peer. Returns 0 when it has left, 3 if tasks were lost with it. Raises ScatterError if it cannot start."""
    try:
        return _run(options)
    except ScatterError as error:
        if not options.boot:
            raise
        stay(error)
        return 1


def _run(options: argparse.Namespace) -> int:
    from ..config import load
    from ..eventstream import event_stream
    from ..runtime import PeerProcess

    flags = _flags(options)
    settings = load(options.config, os.environ, flags, flag_names=_FLAG_NAMES)
    graphs = [graph for path in options.graph for graph in _graphs(Path(path))]
    name = options.name or socket.gethostname()
    stream = event_stream(settings, source=name, complain=complain)
    try:
        peer = PeerProcess(
            settings,
            name=name,
            graphs=graphs,
            events=stream,
            version_file=options.version_file,
        )
        if options.end_with_parent:
            peer.leave_at_end_of(sys.stdin.fileno())
        if not (options.no_welcome or options.json):
            _welcome(peer, settings)
        # What is here by now stays, and walking through it again and again would only make tasks wait.
        gc.collect()
        gc.freeze()
        with on_ending(lambda _: peer.leave()):
            return peer.run()
    finally:
        stream.close()


def _flags(options: argparse.Namespace) -> dict[str, object]:
    """Settings by key, as far as options give them."""
    flags: dict[str, object] = {}
    for key, (option, _) in _SETTINGS.items():
        value = getattr(options, option)
        if value is not None:
            flags[key] = tuple(value) if isinstance(value, list) else value
    if options.no_zeroconf:
        flags["network.zeroconf"] = False
    if options.data_dir is not None:
        flags.setdefault("journal.mode", "batch")
    if options.json:
        flags["events.listeners"] = ("stdout-json",)
    if options.max_memory is not None:
        flags |= {key: int(options.max_memory * share) for key, share in _MEMORY_SHARES.items()}
    return flags


def _graphs(path: Path) -> list["GraphFile"]:
    """The definitions of a file, or of all .json files of a folder. Raises ConfigError for what is not there, or is no
    definition; what its kinds say to it comes later, from an executor.
    """
    from ..graph.reading import parse
    from ..runtime import GraphFile

    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files:
        raise ConfigError(f"--graph {path}: there is no .json file in this folder")
    try:
        graphs = [GraphFile(source=str(file), definition=file.read_text(encoding="utf-8")) for file in files]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--graph {path}: cannot be read: {error}") from error
    for graph in graphs:
        problems = parse(graph.definition).problems
        if problems:
            more = f" (and {len(problems) - 1} more: scatterzmq graph check {graph.source})" if problems[1:] else ""
            raise ConfigError(f"--graph {graph.source}: {problems[0]}{more}")
    return graphs


def _welcome(peer: "PeerProcess", settings: "Settings") -> None:
    contact = peer.contact
    sys.stderr.write(
        f"scatterzmq peer {contact.name} at {contact.address}, cluster {settings.cluster.name!r}, "
        f"executors: {settings.executor.count}. Others join with --join {contact.address}; "
        "Ctrl-C hands its tasks over and ends it.\n"
    )
