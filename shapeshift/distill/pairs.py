"""Pairs of places at which a teacher and a student are compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from shapeshift.distill.example import example_input
from shapeshift.distill.features import Feature, locate
from shapeshift.distill.stages import as_it_is, before_activation, find_stages
from shapeshift.distill.trace import Call, Trace, Value, trace
from shapeshift.errors import ConfigError, ModelError
from shapeshift.names import did_you_mean
from shapeshift.running.wrappers import unwrap

# Dotted names of layers, or pairs of one name for the teacher and one for the student. None finds the layers.
Layers = Sequence[str | tuple[str, str]] | None

_MOST_LAYERS = 4  # of networks of repeated layers: the number of stages of a usual convolutional network


def trace_both(teacher: nn.Module, student: nn.Module, example: Any) -> tuple[Trace, Trace]:
    """Run teacher and student once on the same batch.

    Args:
        teacher: The teacher, with or without a wrapper around it.
        student: The student, with or without a wrapper around it.
        example: The batch. None makes one up from the teacher's first layer.

    Raises:
        ModelError: If one of the models fails on the batch.
    """
    teacher, student = unwrap(teacher), unwrap(student)
    x = example_input(teacher) if example is None else example
    return trace(teacher, x), trace(student, x)


def split_names(layers: Sequence[str | tuple[str, str]]) -> tuple[list[str], list[str]]:
    """Split names for both models into the teacher's and the student's.

    Raises:
        ConfigError: If they are neither names nor pairs of names, such as a single string.
    """
    pairs = [(name, name) if isinstance(name, str) else tuple(name) for name in layers if not isinstance(layers, str)]
    if isinstance(layers, str) or any(len(pair) != 2 or not all(isinstance(n, str) for n in pair) for pair in pairs):
        raise ConfigError(f"layers must be a list of names or of pairs of names, not {layers!r}")
    return [teacher for teacher, _ in pairs], [student for _, student in pairs]


def pair_stages(teacher: nn.Module, student: nn.Module, layers: Layers, example: Any) -> list[tuple[Feature, Feature]]:
    """Pair the ends of a teacher's and a student's stages, each read before its activation where there is a ReLU.

    Args:
        teacher: The trained model.
        student: The model to train.
        layers: The names of the places; None finds the stages. In networks whose layers all have one resolution, such
            as most transformers, up to four evenly spaced layers are taken.
        example: A batch that both models take. None makes one up.

    Raises:
        ConfigError: If the names are neither names nor pairs of names.
        ModelError: If a name is no layer that runs, a stage cannot be read, or the two lists do not match.
    """
    passes = trace_both(teacher, student, example)
    if layers is None:
        features = [[_before_activation(made, end) for end in find_stages(made)] for made in passes]
        if all(len({feature.resolution for feature in found}) == 1 for found in features):
            count = min(_MOST_LAYERS, *map(len, features))
            features = [_evenly(found, count) for found in features]
    else:
        features = [
            [_named(made, name, whose) for name in names]
            for made, names, whose in zip(passes, split_names(layers), ("teacher", "student"), strict=True)
        ]
    resolutions = [[feature.resolution for feature in found] for found in features]
    if not features[0] or resolutions[0] != resolutions[1]:
        lists = [", ".join(map(str, found)) or "no stage" for found in features]
        raise ModelError(
            f"the stages of teacher and student do not match in number or resolution. Teacher: {lists[0]}. "
            f"Student: {lists[1]}. Name the layers to compare as layers=[(teacher's, student's), ...]"
        )
    return list(zip(*features, strict=True))


def _evenly(features: list[Feature], count: int) -> list[Feature]:
    return [features[len(features) * (index + 1) // count - 1] for index in range(count)]


def _before_activation(made: Trace, end: Value) -> Feature:
    feature = before_activation(made, end)
    if feature is None:
        place = locate(made, end) or "a stage"
        raise ModelError(
            f"{place} of {type(made.model).__name__} ends in a ReLU that is used as a function, so its input cannot be "
            "read at any module. Use nn.ReLU there, or name the layers to compare as layers="
        )
    return feature


def named_call(made: Trace, name: str, field: str, whose: str) -> Call:
    """Return the last call of a layer that the user named.

    Args:
        made: A pass of the model.
        name: The dotted name of the layer.
        field: The argument that holds the name, for the error.
        whose: The role of the model, for the error: "teacher" or "student".

    Raises:
        ModelError: If there is no such layer, or it returns no tensor. The error lists similar names.
    """
    calls = [call for call in made.calls if call.path == name and call.output is not None]
    if not calls:
        known = [path for path, _ in made.model.named_modules() if path]
        hint = "" if name in known else did_you_mean(name, known)
        what = "returns no tensor in a pass of" if name in known else "is no layer of"
        raise ModelError(f"{field}: {name!r} {what} the {whose}, {type(made.model).__name__}{hint}")
    return calls[-1]


def _named(made: Trace, name: str, whose: str) -> Feature:
    """Return the place at which a named layer is read: the input of a ReLU, the output of any other module."""
    call = named_call(made, name, "layers", whose)
    assert call.output is not None
    find = before_activation if isinstance(call.module, (nn.ReLU, nn.ReLU6)) else as_it_is
    feature = find(made, call.output)
    assert feature is not None
    return feature
