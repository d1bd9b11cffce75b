"""Clusters of layers: coarse ones by kind and depth, and within them those whose gradients agree."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from shapeshift.disjoint_sets import DisjointSets
from shapeshift.superweights.weight_gradients import Matrix
from shapeshift.weights import Weight


def by_member(names: Sequence[str], prefixes: Sequence[str]) -> list[list[int]]:
    """Return the indices of each network's layers, starting with the network that has the most layers.

    Args:
        names: The names of the layers of all networks.
        prefixes: The prefix of the names of each network's layers.
    """
    members = [[index for index, name in enumerate(names) if name.startswith(prefix)] for prefix in prefixes]
    return sorted(members, key=lambda found: -len(found))


def coarse_clusters(weights: Sequence[Weight], members: Sequence[Sequence[int]], count: int) -> list[str]:
    """Split the layers of each network by kind, and each kind into runs of consecutive layers.

    Args:
        weights: The weights of the layers.
        members: The indices of each network's layers, in the order of the network. The first network decides how many
            runs each kind has: in proportion to its layers, and at least one.
        count: The number of runs in the first network.

    Returns:
        The name of the cluster of each weight. A cluster holds the layers of one kind and run in all networks.
    """
    labels = [""] * len(weights)
    for member in members:
        kinds: dict[str, list[int]] = defaultdict(list)
        for index in member:
            kinds["x".join(map(str, weights[index].shape[2:])) or "linear"].append(index)
        if member is members[0]:
            runs = {kind: max(1, round(count * len(found) / len(member))) for kind, found in kinds.items()}
        for kind, found in kinds.items():
            for run, part in enumerate(np.array_split(found, runs.setdefault(kind, 1))):
                for index in part:
                    labels[index] = f"{kind}_{run}"
    return labels


def agreeing_clusters(
    similarity: Matrix, coarse: Sequence[str], members: Iterable[Sequence[int]], threshold: float
) -> tuple[list[int], dict[int, int]]:
    """Join the layers that agree, within coarse clusters.

    The first network that has layers in a coarse cluster sets its clusters: layers that a chain of pairs connects whose
    similarity is above the threshold. A layer of another network joins the cluster of the layer most similar to it.

    Args:
        similarity: The similarity of any two layers, of shape (layers, layers).
        coarse: The coarse cluster of each layer.
        members: The indices of each network's layers.
        threshold: The similarity above which two layers are joined.

    Returns:
        The cluster of each layer, numbered in the order of the layers; and for each layer of another network the layer
        that it was matched with.
    """
    disjoint = DisjointSets()
    first: dict[str, list[int]] = {}
    matches: dict[int, int] = {}
    for label, layers in _clusters_of_each(members, coarse):
        if label in first:
            matches |= _most_similar(similarity, layers, first[label])
        else:
            first[label] = layers
            for other, index in itertools.combinations(layers, 2):
                if similarity[index, other] > threshold:
                    disjoint.union(other, index)
    for index, match in matches.items():
        disjoint.union(match, index)
    numbers: dict[int, int] = {}
    labels = [numbers.setdefault(disjoint.find(index), len(numbers)) for index in range(len(coarse))]
    return labels, matches


def _clusters_of_each(members: Iterable[Sequence[int]], coarse: Sequence[str]) -> Iterable[tuple[str, list[int]]]:
    """Yield the name and the layers of each coarse cluster, one network after the other."""
    for member in members:
        clusters: dict[str, list[int]] = defaultdict(list)
        for index in member:
            clusters[coarse[index]].append(index)
        yield from clusters.items()


def _most_similar(similarity: Matrix, layers: Sequence[int], candidates: Sequence[int]) -> dict[int, int]:
    """Return for each layer the candidate that is most similar to it."""
    return {index: max(candidates, key=lambda other: similarity[index, other]) for index in layers}
