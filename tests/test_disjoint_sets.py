"""Disjoint sets of numbers, joined one pair at a time."""

from __future__ import annotations

import random
from collections import defaultdict

import pytest
from scipy.cluster.hierarchy import DisjointSet

from shapeshift.disjoint_sets import DisjointSets


@pytest.mark.parametrize(("numbers", "joins"), [(1, 0), (5, 20), (50, 20), (50, 45), (500, 400)])
def test_sets_are_those_of_scipy(numbers: int, joins: int) -> None:
    rng = random.Random(joins)
    found, expected = DisjointSets(), DisjointSet(range(numbers))
    for _ in range(joins):
        first, second = rng.randrange(numbers), rng.randrange(numbers)
        found.union(first, second)
        expected.merge(first, second)
        if rng.random() < 0.1:  # a question between two joins changes no set
            assert (found.find(first) == found.find(0)) == expected.connected(first, 0)
    sets = defaultdict(set)
    for number in range(numbers):
        sets[found.find(number)].add(number)
    assert sorted(map(sorted, sets.values())) == sorted(map(sorted, expected.subsets()))
    assert all(root in members for root, members in sets.items())


def test_a_long_chain_is_one_set() -> None:
    chain = DisjointSets()
    for number in reversed(range(10_000)):
        chain.union(number, number + 1)
    assert {chain.find(number) for number in range(10_001)} == {chain.find(0)}
    assert chain.find(10_001) == 10_001
