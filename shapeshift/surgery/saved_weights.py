"""What the graph of a forward pass keeps in place of generated weights: how to generate them again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef

from shapeshift.generators.recomputed import Recipe, Recomputed, version_of
from shapeshift.running.modes import is_eager

# The nodes of operations that give a view, between the cast of a weight and what a layer saves.
_VIEWS = {"TBackward0", "TransposeBackward0", "PermuteBackward0", "ViewBackward0", "UnsafeViewBackward0"}


class _Again(NamedTuple):
    """A saved tensor that lies in the memory of a generated weight, or of a copy of it in another precision."""

    recipe: Recipe
    dtype: torch.dtype
    size: torch.Size
    stride: tuple[int, ...]
    offset: int

    def __call__(self) -> Tensor:
        values = self.recipe.compute().to(self.dtype)
        return values.as_strided(self.size, self.stride, self.offset)


class _Saved(NamedTuple):
    """Any other saved tensor, and how often it had been written to."""

    tensor: Tensor
    version: int

    def __call__(self) -> Tensor:
        if self.version != version_of(self.tensor):
            raise RuntimeError(  # as torch does
                "one of the variables needed for gradient computation has been modified by an inplace operation: "
                f"a {self.tensor.dtype} of shape {tuple(self.tensor.shape)} is at version {self.tensor._version}; "
                f"expected version {self.version}"
            )
        return self.tensor


def hidden() -> saved_tensors_hooks:
    """Return a context in which nobody else sees what generating a weight saves.

    Gradient checkpointing matches what a block saves when it is run again in the backward pass with what it saved at
    first. A weight may be there at the one time and generated at the other.
    """
    return saved_tensors_hooks(_save, _Saved.__call__)


class SavedWeights:
    """Keeps generated weights out of the graph of a forward pass; the backward pass generates them again.

    Layers save their weights for the backward pass. Within the hooks, a saved tensor in the memory of a generated
    weight is replaced by the recipe for it.
    """

    def __init__(self) -> None:
        self._recipes: dict[int, Recipe] = {}
        self._storages: list[StorageWeakRef] = []  # while one is referred to, no other storage has its address
        self._nodes: dict[Any, Recipe] = {}
        self._has_casts = any(map(torch.is_autocast_enabled, ("cpu", "cuda", "xpu", "mps")))
        found = torch._C._autograd._top_saved_tensors_default_hooks(False)  # type: ignore[attr-defined]
        #: The hooks of others that this pass runs under, such as those of torch.autograd.graph.save_on_cpu.
        self._outer: tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]] | None = found

    @classmethod
    def start(cls) -> Self | None:
        """Return one for a pass that starts now; None if it has no graph, or one that may not be hooked into."""
        if not (torch.is_grad_enabled() and is_eager()):
            return None
        allowed: bool = torch._C._autograd._saved_tensors_hooks_is_enabled()  # type: ignore[attr-defined]
        return cls() if allowed else None

    def hooks(self) -> saved_tensors_hooks:
        """Return the context that the forward pass runs in."""
        return saved_tensors_hooks(self._pack, self._unpack)

    def add(self, weight: Tensor, made: Recomputed) -> None:
        """Note the memory of a generated weight."""
        storage = StorageWeakRef(weight.untyped_storage())
        self._storages.append(storage)
        self._recipes[storage.cdata] = made.recipe
        if self._has_casts and weight.grad_fn is not None:
            self._nodes[weight.grad_fn] = made.recipe

    def _pack(self, tensor: Tensor) -> Any:
        recipe = self._recipe_of(tensor)
        if recipe is not None:
            return _Again(recipe, tensor.dtype, tensor.size(), tensor.stride(), int(tensor.storage_offset()))
        if self._outer is not None:
            return self._outer[0](tensor)
        return _save(tensor)

    def _unpack(self, packed: Any) -> Tensor:
        if self._outer is not None and not isinstance(packed, _Again):
            return self._outer[1](packed)
        found: Tensor = packed()
        return found

    def _recipe_of(self, tensor: Tensor) -> Recipe | None:
        if type(tensor) is not Tensor:
            return None
        recipe = self._recipes.get(tensor.untyped_storage()._cdata)
        return self._recipe_of_cast(tensor) if recipe is None and self._has_casts else recipe

    def _recipe_of_cast(self, tensor: Tensor) -> Recipe | None:
        """Return the recipe of the weight that a tensor is a cast copy of, as layers make under autocast."""
        node: Any = tensor.grad_fn
        while node is not None and type(node).__name__ in _VIEWS:
            node = node.next_functions[0][0]
        return self._nodes.get(node.next_functions[0][0]) if type(node).__name__ == "ToCopyBackward0" else None


def _save(tensor: Tensor) -> _Saved:
    kept = tensor.detach()  # with the tensor itself, the graph would refer to itself
    return _Saved(kept, version_of(kept))
