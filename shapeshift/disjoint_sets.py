"""Sets of numbers that are joined one pair at a time."""

from __future__ import annotations


class Unions:
    """Disjoint sets of numbers; each number begins as a set of its own."""

    def __init__(self) -> None:
        self._parents: dict[int, int] = {}

    def join(self, first: int, second: int) -> None:
        """Make one set of those that two numbers are in."""
        first, second = self.root(first), self.root(second)
        if first != second:
            self._parents[second] = first

    def root(self, number: int) -> int:
        """Return the number that stands for the set that a number is in."""
        root = number
        while (parent := self._parents.get(root, root)) != root:
            root = parent
        # Whoever asks next has one step to go.
        while (parent := self._parents.get(number, root)) != root:
            self._parents[number] = root
            number = parent
        return root
