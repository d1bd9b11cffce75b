"""Disjoint sets of integers, merged one pair at a time."""

from __future__ import annotations


class DisjointSets:
    """Disjoint sets of integers (union-find); each integer starts in a set of its own."""

    def __init__(self) -> None:
        self._parents: dict[int, int] = {}

    def union(self, first: int, second: int) -> None:
        """Merge the sets of two integers."""
        first, second = self.find(first), self.find(second)
        if first != second:
            self._parents[second] = first

    def find(self, number: int) -> int:
        """Return the representative of an integer's set."""
        root = number
        while (parent := self._parents.get(root, root)) != root:
            root = parent
        # Compress the path: the next search takes one step.
        while (parent := self._parents.get(number, root)) != root:
            self._parents[number] = root
            number = parent
        return root
