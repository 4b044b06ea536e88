"""The settings of a peer: file < environment < flags, and one line for whatever is wrong; config/peer.toml."""

import json
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest

from scatterzmq.config import FILE_BYTES_MAX, load
from scatterzmq.errors import ConfigError
from scatterzmq.settings import Settings, known_keys
from tests.peertoml import said_of, written

PEER_TOML = Path(__file__).parent.parent / "config" / "peer.toml"

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a file of settings, in the folder where we are."""
    monkeypatch.chdir(tmp_path)

    def write(content: str | bytes, name: str = "p.toml") -> str:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return name

    return write


def complaint(
    file: str | None = None,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
    **options: Any,
) -> str:
    with pytest.raises(ConfigError) as caught:
        load(file, environment or {}, flags or {}, **options)
    (line,) = str(caught.value).splitlines()
    return line


# ---- the file in config/


def test_the_file_of_all_settings_says_what_the_settings_say() -> None:
    assert PEER_TOML.read_text("utf-8") == written(), "renew it: python -m tests.peertoml > config/peer.toml"


def test_it_has_every_key_with_its_default() -> None:
    given = tomllib.loads(PEER_TOML.read_text("utf-8"))
    assert {section: list(values) for section, values in given.items()} == {
        section: list(values) for section, values in asdict(Settings()).items()
    }
    assert load(str(PEER_TOML), {}, {}) == Settings()


def test_each_key_is_spoken_of() -> None:
    for section in fields(Settings):
        for key, said in said_of(type(getattr(Settings(), section.name))).items():
            assert len(said) > 20, (section.name, key, said)


# ---- what is taken


def test_without_anything_everything_has_its_default() -> None:
    assert load(None, {}, {}) == load(None, {"PATH": "x", "scatterzmq_store_bytes": "1"}, {"health.port": None})
    assert load(None, {}, {}) == Settings()


def test_flags_are_stronger_than_the_environment_and_that_than_the_file(write: Write) -> None:
    file = write("[tasks]\nmax_retries = 1\nwindow = 1\npoison_limit = 1\n")
    environment = {"SCATTERZMQ_TASKS_WINDOW": "2", "SCATTERZMQ_TASKS_POISON_LIMIT": "2"}
    tasks = load(file, environment, {"tasks.poison_limit": 3}).tasks
    assert (tasks.max_retries, tasks.window, tasks.poison_limit) == (1, 2, 3)


def test_json_with_the_same_keys_is_taken(write: Write) -> None:
    text = json.dumps({"store": {"bytes": "1MiB"}, "blobs": {"dir": None}, "plugins": {"allow": ["a", "b"]}})
    settings = load(write(text, "p.json"), {}, {})
    assert (settings.store.bytes, settings.blobs.dir, settings.plugins.allow) == (1 << 20, None, ("a", "b"))


@pytest.mark.parametrize(
    ("variable", "text", "key", "value"),
    [
        ("SCATTERZMQ_STORE_BYTES", "512MiB", "store.bytes", 512 << 20),
        ("SCATTERZMQ_NETWORK_OUTBOX_BYTES", " 2097152 ", "network.outbox_bytes", 2 << 20),
        ("SCATTERZMQ_EXECUTOR_BATCH_SIZE", " 7 ", "executor.batch_size", 7),
        ("SCATTERZMQ_TIMING_LEASE_S", "20", "timing.lease_s", 20.0),
        ("SCATTERZMQ_CACHE_ENABLED", "False", "cache.enabled", False),
        ("SCATTERZMQ_CACHE_USE_DEFER", "true", "cache.use_defer", True),
        ("SCATTERZMQ_BLOBS_DIR", "here", "blobs.dir", "here"),
        ("SCATTERZMQ_BLOBS_DIR", "", "blobs.dir", None),
        ("SCATTERZMQ_NETWORK_JOIN", "tcp://a:1, tcp://b:2,", "network.join", ("tcp://a:1", "tcp://b:2")),
        ("SCATTERZMQ_EVENTS_LISTENERS", "", "events.listeners", ()),
    ],
)
def test_texts_stand_for_values(variable: str, text: str, key: str, value: object) -> None:
    """In the environment, and as the argument of a flag."""
    section, _, name = key.partition(".")
    for settings in (load(None, {variable: text}, {}), load(None, {}, {key: text})):
        found = getattr(getattr(settings, section), name)
        assert (found, type(found)) == (value, type(value))


def test_each_key_has_a_variable_of_its_own() -> None:
    variables = {"SCATTERZMQ_" + key.replace(".", "_").upper() for key in known_keys()}
    assert len(variables) == len(known_keys()) > 50


# ---- what is wrong


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "[store]\nbytes = 'much'",
            "p.toml: store.bytes: expected a number of bytes, or a text such as '512MiB', got 'much'",
        ),
        ("[tasks]\nwindow = '1'", "p.toml: tasks.window: expected a whole number, got '1'"),
        ("[cache]\nenabled = 'true'", "p.toml: cache.enabled: expected true or false, got 'true'"),
        ("store = 3", "p.toml: store: expected a section of settings, got 3"),
        ("[caches]", "p.toml: unknown key caches; did you mean cache? known here are blobs, cache, cluster, "),
        (
            "[cache]\nenable = true",
            "p.toml: unknown key cache.enable; did you mean enabled? known here are bytes, enabled, use_defer",
        ),
        ("[cache]\nsize = 1", "p.toml: unknown key cache.size; known here are bytes, enabled, use_defer"),
        ("[timing]\nlease_s = nan", "p.toml: timing.lease_s: expected at least 0.1, got nan"),
        ("[store\n", "p.toml: expected TOML: Expected ']' at the end of a table declaration (at line 1, column 7)"),
        ("[store]\n[store]\n", "p.toml: expected TOML: Cannot declare"),
        (b"\xff", "p.toml: expected TOML: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
        ("a = " + "[" * 100_000, "p.toml: expected TOML: maximum recursion depth exceeded"),
        (b"#" * (FILE_BYTES_MAX + 1), "p.toml: expected a file of settings, got more than 1048576 bytes"),
    ],
)
def test_what_is_wrong_in_a_file_is_said_in_one_line(write: Write, text: str | bytes, line: str) -> None:
    assert complaint(write(text)).startswith(line)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('{"store": ', "p.json: expected JSON: Expecting value: line 1 column 11 (char 10)"),
        ("[]", "p.json: expected a section of settings, got []"),
        ('{"store": {"bytes": 1, "bytes": 2}}', "p.json: expected JSON: 'bytes' is there twice"),
        (
            '{"store": {"bytes": null}}',
            "p.json: store.bytes: expected a number of bytes, or a text such as '512MiB', got None",
        ),
        ('{"a": ' * 100_000, "p.json: expected JSON: maximum recursion depth exceeded"),
    ],
)
def test_what_is_wrong_in_json_is_said_in_one_line(write: Write, text: str, line: str) -> None:
    assert complaint(write(text, "p.json")).startswith(line)


def test_a_file_that_cannot_be_read_is_named(write: Write, tmp_path: Path) -> None:
    assert complaint(str(tmp_path / "none.toml")) == f"{tmp_path}/none.toml: cannot be read: No such file or directory"
    assert complaint(str(tmp_path)) == f"{tmp_path}: cannot be read: Is a directory"


@pytest.mark.parametrize(
    ("variable", "text", "line"),
    [
        (
            "SCATTERZMQ_TASKS_WINDOW",
            "many",
            "SCATTERZMQ_TASKS_WINDOW: tasks.window: expected a whole number, got 'many'",
        ),
        ("SCATTERZMQ_TASKS_WINDOW", "0", "SCATTERZMQ_TASKS_WINDOW: tasks.window: expected at least 1, got 0"),
        (
            "SCATTERZMQ_CACHE_ENABLED",
            "yes",
            "SCATTERZMQ_CACHE_ENABLED: cache.enabled: expected true or false, got 'yes'",
        ),
        ("SCATTERZMQ_TIMING_ASK_S", "1s", "SCATTERZMQ_TIMING_ASK_S: timing.ask_s: expected a number, got '1s'"),
        (
            "SCATTERZMQ_STORE_BYTE",
            "1",
            (
                "environment: unknown variable SCATTERZMQ_STORE_BYTE; did you mean SCATTERZMQ_STORE_BYTES? "
                "known is SCATTERZMQ_SECTION_KEY for each setting"
            ),
        ),
        (
            "SCATTERZMQ_",
            "1",
            "environment: unknown variable SCATTERZMQ_; known is SCATTERZMQ_SECTION_KEY for each setting",
        ),
    ],
)
def test_what_is_wrong_in_the_environment_is_said_in_one_line(variable: str, text: str, line: str) -> None:
    assert complaint(None, {variable: text}) == line


def test_what_is_wrong_in_flags_is_said_by_their_names() -> None:
    names = {"health.port": "--health-port"}
    assert (
        complaint(flags={"health.port": 70000}, flag_names=names)
        == "--health-port: health.port: expected at most 65535, got 70000"
    )
    assert complaint(flags={"health.port": "x"}) == "flags: health.port: expected a whole number, got 'x'"
    assert complaint(flags={"health.prt": 1}).startswith(
        "flags: unknown key health.prt; did you mean health.port? known"
    )


def test_what_is_replaced_is_checked_all_the_same(write: Write) -> None:
    file = write("[tasks]\nwindow = 0\n")
    assert complaint(file, {"SCATTERZMQ_TASKS_WINDOW": "1"}) == "p.toml: tasks.window: expected at least 1, got 0"


def test_of_two_that_do_not_fit_the_stronger_is_named(write: Write) -> None:
    file = write("[timing]\nsuspect_s = 4\ndead_s = 8\n")
    said = "timing.suspect_s: expected less than timing.dead_s (3.0), got 4.0: "
    said += "a silent peer is doubted before it is given up"
    assert load(file, {}, {}).timing.suspect_s == 4
    assert complaint(file, {"SCATTERZMQ_TIMING_DEAD_S": "3"}) == f"SCATTERZMQ_TIMING_DEAD_S: {said}"
    assert complaint(file, {}, {"timing.dead_s": 3}) == f"flags: {said}"
    assert complaint(write("[timing]\nsuspect_s = 4\ndead_s = 3\n")) == f"p.toml: {said}"


def test_a_journal_needs_a_folder() -> None:
    flags = {"journal.mode": "sync"}
    assert complaint(flags=flags, flag_names={"journal.mode": "--journal"}) == (
        "--journal: journal.dir: expected a folder, because journal.mode is 'sync'; got none"
    )
    assert load(None, {"SCATTERZMQ_JOURNAL_DIR": "here"}, flags).journal.dir == "here"


def test_a_peer_of_its_own_has_no_caller_to_run_in() -> None:
    assert complaint(flags={"executor.kind": "inline"}) == (
        "flags: executor.kind: expected thread or process, got 'inline', which is for scatterzmq.local()"
    )
