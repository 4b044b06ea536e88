"""Alarms: what is due when, by number. O(log n) each; asking for the next one is free."""

from heapq import heappop, heappush


class Alarms:
    """One alarm per number; setting it again moves it."""

    def __init__(self) -> None:
        self._due: dict[int, int] = {}
        self._heap: list[tuple[int, int]] = []

    def __contains__(self, number: int) -> bool:
        return number in self._due

    def set(self, number: int, due_ms: int) -> None:
        if self._due.get(number) != due_ms:
            self._due[number] = due_ms
            heappush(self._heap, (due_ms, number))

    def drop(self, number: int) -> None:
        self._due.pop(number, None)

    def take_due(self, now_ms: int) -> list[int]:
        """Those that are due, oldest first; they are set no more."""
        due = []
        while (deadline_ms := self.deadline_ms()) is not None and deadline_ms <= now_ms:
            _, number = heappop(self._heap)
            del self._due[number]
            due.append(number)
        return due

    def deadline_ms(self) -> int | None:
        while self._heap and self._due.get(self._heap[0][1]) != self._heap[0][0]:
            heappop(self._heap)  # moved or dropped
        return self._heap[0][0] if self._heap else None
