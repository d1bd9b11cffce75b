"""Which layers go together: coarse clusters by kind and depth, and those that agree within them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from shapeshift.disjoint_sets import DisjointSets
from shapeshift.superweights.weight_gradients import Matrix
from shapeshift.weights import Weight


def by_member(names: Sequence[str], prefixes: Sequence[str]) -> list[list[int]]:
    """Return the indices of the layers of each network, those of the deepest one first.

    Args:
        names: of the layers.
        prefixes: what the names of each network's layers begin with.
    """
    members = [[index for index, name in enumerate(names) if name.startswith(prefix)] for prefix in prefixes]
    return sorted(members, key=lambda found: -len(found))


def coarse_clusters(weights: Sequence[Weight], members: Sequence[Sequence[int]], count: int) -> list[str]:
    """Split the layers of each network by kind, and each kind into runs of consecutive layers.

    Args:
        weights: of the layers.
        members: the indices of each network's layers, in the order of the network; the first one tells how the runs
            are split over the kinds, in proportion to their layers, at least one each.
        count: how many runs to make in the first network.

    Returns:
        The cluster of each weight. Those of one kind and run in several networks go together.
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

    Of the first network that has layers in a coarse cluster, those form one that are joined by a chain of pairs whose
    similarity is above the threshold. The layers of other networks join that of the layer most similar to them.

    Args:
        similarity: between any two layers.
        coarse: the coarse cluster of each layer.
        members: the indices of each network's layers.
        threshold: the similarity from which on two layers are joined.

    Returns:
        The cluster of each layer, numbered in the order of the layers; and for each layer of another network the one
        that it was joined to.
    """
    disjoint = DisjointSets()
    first: dict[str, list[int]] = {}
    matches: dict[int, int] = {}
    for member in members:
        clusters: dict[str, list[int]] = defaultdict(list)
        for index in member:
            clusters[coarse[index]].append(index)
        for label, found in clusters.items():
            if label in first:
                for index in found:
                    matches[index] = max(first[label], key=lambda other: similarity[index, other])
                    disjoint.union(matches[index], index)
            else:
                first[label] = found
                for place, index in enumerate(found):
                    for other in found[:place]:
                        if similarity[index, other] > threshold:
                            disjoint.union(other, index)
    numbers: dict[int, int] = {}
    labels = [numbers.setdefault(disjoint.find(index), len(numbers)) for index in range(len(coarse))]
    return labels, matches
