"""What a peer's process asks of the system."""

import resource

import pytest

from scatterzmq.runtime import _raised_file_limit

ANY = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("before", "after", "allowed"),
    [
        ((1024, 524_288), (6000, 524_288), 6000),
        ((1024, ANY), (6000, ANY), 6000),
        ((1024, 4096), (4096, 4096), 4096),
        ((4096, 4096), (4096, 4096), 4096),
        ((6000, 6000), (6000, 6000), 6000),
        ((ANY, ANY), (ANY, ANY), 6000),
    ],
)
def test_room_for_files_is_made_as_far_as_it_may_be(
    monkeypatch: pytest.MonkeyPatch, before: tuple[int, int], after: tuple[int, int], allowed: int
) -> None:
    limits = before

    def limit_to(_: int, asked: tuple[int, int]) -> None:
        nonlocal limits
        limits = asked

    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    monkeypatch.setattr(resource, "setrlimit", limit_to)
    assert _raised_file_limit(6000) == allowed
    assert limits == after
