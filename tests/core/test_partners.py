"""Partners: on which machines copies are kept. (How many take turns: test_members.)"""

from scatterzmq.core.messages import Contact
from scatterzmq.core.partners import Partners
from scatterzmq.ids import PeerId


def at(machine: int, number: int) -> Contact:
    """A peer on a machine."""
    return Contact(id=PeerId(f"P{number:032x}"), incarnation=1, address=f"tcp://10.0.0.{machine}:{7000 + number}")


def ids(*members: Contact) -> set[PeerId]:
    return {member.id for member in members}


def test_copies_go_to_other_machines_while_there_are_any() -> None:
    partners = Partners(at(1, 0))
    beside = tuple(at(1, number) for number in (1, 2, 3, 4))
    assert set(partners.ranked(beside, 0)) == ids(*beside)
    assert len({partners.ranked(beside, turn)[0] for turn in range(4)}) == 2
    second = at(2, 5)
    assert {partners.ranked((*beside, second), turn)[0] for turn in range(4)} == {second.id}
    third = at(3, 6)
    for turn in range(4):
        ranked = partners.ranked((*beside, second, third), turn)
        assert set(ranked[:2]) == ids(second, third)
        assert set(ranked[2:]) == ids(*beside)
    assert set(partners.ranked(beside, 0)) == ids(*beside), "they have gone"


def test_who_moves_to_another_machine_is_ranked_anew() -> None:
    partners = Partners(at(1, 0))
    first = partners.ranked((at(1, 1), at(2, 2)), 0)
    assert partners.ranked((at(2, 1), at(1, 2)), 0) == first[::-1]
