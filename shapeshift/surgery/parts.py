"""Parts of a compressed model: modules inside it, which list the shared parameters that serve nothing else."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule

from shapeshift.errors import GeneratedWeightError
from shapeshift.names import covering_names
from shapeshift.surgery.attached import is_attached, weight_sources
from shapeshift.surgery.forward_pass import WeightSource
from shapeshift.surgery.orphans import check_unfreezing
from shapeshift.surgery.other_tools import check_targets


def sources_read_in(part: nn.Module) -> dict[WeightSource, set[int]]:
    """Return the sources that the layers in a module read, with the indices of the weights that they read there."""
    found: dict[WeightSource, set[int]] = {}
    for module in part.modules():
        if is_attached(module):
            for source, index in weight_sources(module).values():
                found.setdefault(source, set()).add(index)
    return found


def serves_others(source: WeightSource, indices: set[int]) -> bool:
    """Return whether a source has weights beside those of the given indices."""
    return len(indices) < len(source.weights)


def how_to_separate(source: WeightSource, indices: set[int]) -> str:
    """Return the sentence that names the mapping by which some of a source's weights get a group of their own."""
    inside = [name for index in sorted(indices) for name in source.weights[index].names]
    outside = [name for index, weight in enumerate(source.weights) if index not in indices for name in weight.names]
    paths = covering_names(inside, outside)
    group = paths[0].replace(".", "_") if len(paths) == 1 else "part"
    entries = {**dict.fromkeys(paths, group), "*": "rest"}
    return f"Give that part a group of its own: shapeshift.compress(model, budget, mapping={entries!r})"


def describe_sharing(source: WeightSource, indices: set[int]) -> str:
    """Return what a part of a source's weights is, and which other weight reads the same shared parameters."""
    first = source.weights[min(indices)]
    other = next(weight for index, weight in enumerate(source.weights) if index not in indices)
    return (
        f"{first.name} {first.shape} is generated from {source.path}, which also generates {other.name} {other.shape}"
    )


def part_members(base: type[nn.Module]) -> dict[str, Callable[..., Any]]:
    """Return the methods of a class for parts that derives from a module class."""

    def named_parameters(self: nn.Module, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        recurse = kwargs.get("recurse", args[1] if len(args) > 1 else True)
        prefix = kwargs.get("prefix", args[0] if args else "")
        # Without recursion, a module lists what it has registered itself: FSDP2 asks each module for that.
        sources = sources_read_in(self) if recurse else {}
        if not torch.compiler.is_compiling():
            _check_lister(self, sources, sys._getframe(1))
        yield from base.named_parameters(self, *args, **kwargs)
        for source, indices in sources.items():
            if not serves_others(source, indices):
                path = f"{prefix}.{source.path}" if prefix else source.path
                yield from source.generator.named_parameters(path)

    def requires_grad_(self: nn.Module, requires_grad: bool = True) -> nn.Module:
        for source, indices in sources_read_in(self).items():
            changes = any(found.requires_grad != requires_grad for found in source.generator.parameters())
            if changes and serves_others(source, indices):
                raise GeneratedWeightError(
                    f"requires_grad_({requires_grad}) on a part of a compressed model: "
                    f"{describe_sharing(source, indices)}, so neither can be frozen alone. "
                    f"{how_to_separate(source, indices)}, or keep it out with exclude="
                )
        return base.requires_grad_(self, requires_grad)

    return {"named_parameters": named_parameters, "requires_grad_": requires_grad_}


def _check_lister(part: nn.Module, sources: dict[WeightSource, set[int]], lister: FrameType) -> None:
    """Refuse to list the parameters of a part to code that looks for a weight which is not among them.

    Args:
        part: The part.
        sources: The sources that it reads; empty where it lists its own parameters only.
        lister: The code that asks for the parameters.
    """
    if is_attached(part) and not sources:
        check_targets(part, lister)
    for source, indices in sources.items():
        if serves_others(source, indices):
            check_unfreezing(source, min(indices), lister.f_back)  # the lister is the `parameters` of torch


def containers_of(model: nn.Module, names: Iterable[str]) -> list[nn.Module]:
    """Return the modules between a model and its parameters of the given names, with those that own the parameters."""
    paths = {".".join(parts[:end]) for parts in (name.split(".") for name in names) for end in range(1, len(parts))}
    found = dict.fromkeys(model.get_submodule(path) for path in sorted(paths))  # some models list a module twice
    # A traced module's class is its own code, which no other class can have.
    return [module for module in found if not isinstance(module, GraphModule)]
