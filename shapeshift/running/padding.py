"""Padding: the positions of a batch that hold no input, and the samples of the batch without them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from shapeshift.errors import DataError
from shapeshift.running.batches import Inputs
from shapeshift.running.labels import IGNORED

# The arguments of transformers' models that are true, or 1, at the positions that count. In torch's own layers the
# masks of padding end in "key_padding_mask", and are true, or -inf, at the padding.
_COUNTED = {"attention_mask", "decoder_attention_mask", "encoder_attention_mask"}
_PADDED = "key_padding_mask"

# An additive mask is about -inf at the padding, and about 0 elsewhere.
_HIDDEN = -1e4


def find_masks(batch: Any, inputs: Inputs) -> dict[str, Tensor]:
    """Find the masks of padding in a batch.

    Labels are read where there is no mask of the same inputs. Only the ignored labels at the end of a sample stand for
    padding: a prompt, or a token that a masked language model does not predict, is an input like any other.

    Args:
        batch: The batch of a loader.
        inputs: The arguments that :func:`~shapeshift.running.batches.read_batch` reads in it.

    Returns:
        The masks by the names of arguments, each a bool tensor of shape (N, ..., positions) that is true at the
        positions that count.
    """
    masks = {}
    for name, value in inputs.kwargs.items():
        if isinstance(value, Tensor) and value.dim() > 1:
            if name in _COUNTED:
                masks[name] = value > _HIDDEN if value.is_floating_point() and (value < 0).any() else value != 0
            elif name.endswith(_PADDED):
                masks[name] = value > _HIDDEN if value.is_floating_point() else value == 0
    # The labels of an encoder-decoder belong to its decoder.
    named = named_tensors(inputs)
    name = "decoder_attention_mask" if any(key.startswith("decoder_input") for key in named) else "labels"
    labels = None if name in masks or (masks and name == "labels") else _labels(batch)
    if labels is not None and any(_layout(value, labels) == "batch first" for value in named.values()):
        # True from the first position to the last one that counts.
        masks[name] = (labels != IGNORED).int().flip(-1).cummax(-1).values.flip(-1).bool()
    return masks


def _labels(batch: Any) -> Tensor | None:
    """Return the labels of positions in a batch, of shape (N, ..., positions); None if there are none."""
    if isinstance(batch, Mapping):
        found = batch.get("labels", batch.get("label"))
    else:
        found = batch[1] if isinstance(batch, list | tuple) and len(batch) > 1 else None
    return found if isinstance(found, Tensor) and found.dim() > 1 and not found.is_floating_point() else None


def split_samples(inputs: Inputs, masks: Mapping[str, Tensor], time_first: bool = False) -> list[Inputs]:
    """Split a batch into its samples, without the positions of their padding.

    A tensor whose shape starts with that of a mask is cut along the mask. Any other tensor with as many rows as there
    are samples loses all rows but one, and the rest stays as it is.

    Args:
        inputs: The arguments of the model.
        masks: The masks of :func:`find_masks`.
        time_first: Whether layers of the model may take inputs of shape (positions, N, ...).

    Returns:
        The arguments for each sample, as a batch of one; without samples that are all padding.

    Raises:
        DataError: If the masks and the arguments do not match.
    """
    for name, mask in masks.items():
        read = [
            value for key, value in named_tensors(inputs).items() if key not in masks and _is_for(name, key, inputs)
        ]
        if not any(_layout(value, mask) in ("batch first", "time first") for value in read):
            raise DataError(f"{name} has the shape {tuple(mask.shape)}, and no other argument starts with it")
        if time_first and mask.dim() == 2 and (name == "labels" or mask.shape[0] == mask.shape[1]):
            raise DataError(f"either axis of {name}, of shape {tuple(mask.shape)}, may count the samples")
    leads = {tuple(mask.shape[:-1]) for mask in masks.values()}
    if len(leads) != 1:
        raise DataError(f"the masks {', '.join(masks)} are of batches of different sizes: {sorted(leads)}")
    indices = itertools.product(*map(range, leads.pop()))
    return [_sample(inputs, masks, index) for index in indices if all(mask[index].any() for mask in masks.values())]


def _sample(inputs: Inputs, masks: Mapping[str, Tensor], index: tuple[int, ...]) -> Inputs:
    """Return one sample of a batch without its padding, given its index in the first axes of the masks."""
    size = len(next(iter(masks.values())))
    found = {}
    for name, value in _named(inputs).items():
        own = [mask for key, mask in masks.items() if _is_for(key, name, inputs)]
        found[name] = tree_map_only(Tensor, partial(_cut, masks=own, index=index, size=size), value)
    args = tuple(found.pop(str(position)) for position in range(len(inputs.args)))
    return Inputs(args, found)


def _is_for(mask: str, name: str, inputs: Inputs) -> bool:
    """Return whether an argument can have the padding of a mask, by their names.

    A "src_key_padding_mask" is for "src" if there is such an argument, and for any argument otherwise.
    """
    stem = mask.removesuffix("attention_mask").removesuffix(_PADDED).rstrip("_")
    if stem.startswith("decoder") != name.startswith("decoder"):
        return False
    return name.startswith(stem) or not any(key != mask and key.startswith(stem) for key in _named(inputs))


def named_tensors(inputs: Inputs) -> dict[str, Tensor]:
    """Return the tensors among the arguments by their names; positional ones by their positions."""
    return {name: value for name, value in _named(inputs).items() if isinstance(value, Tensor)}


def _named(inputs: Inputs) -> dict[str, Any]:
    return {str(position): value for position, value in enumerate(inputs.args)} | inputs.kwargs


def _layout(tensor: Tensor, mask: Tensor) -> str | None:
    """Return how a tensor's first axes are laid out, compared with those of a mask; None if in no way that is known."""
    shape, size = tuple(tensor.shape[: mask.dim()]), tuple(mask.shape)
    if shape == size:
        return "batch first"
    if shape == (1,) * (mask.dim() - 1) + size[-1:]:
        return "of all samples"  # such as the numbers of positions, of shape (1, positions)
    return "time first" if shape == size[::-1] and mask.dim() == 2 else None


def _cut(tensor: Tensor, masks: Sequence[Tensor], index: tuple[int, ...], size: int) -> Tensor:
    """Return a sample's part of a tensor, without padding, as that of a batch of one.

    Args:
        tensor: The tensor.
        masks: The masks, of which the first one that fits the tensor is taken.
        index: The index of the sample in the first axes of the masks.
        size: The number of samples along the first of these axes.
    """
    for mask in masks:
        layout, counts = _layout(tensor, mask), mask[index].to(tensor.device)
        if layout == "time first":
            return tensor[counts][:, index[0] : index[0] + 1]
        if layout == "batch first":
            for axis, position in enumerate(index):
                tensor = tensor.narrow(axis, position, 1)
        if layout is not None:
            return tensor.index_select(mask.dim() - 1, counts.nonzero().flatten())
    return tensor[index[0] : index[0] + 1] if tensor.dim() and len(tensor) == size else tensor


def may_be_time_first(model: nn.Module) -> bool:
    """Return whether a layer of a model takes inputs of shape (positions, N, ...), as torch's layers do by default."""
    return any(getattr(module, "batch_first", True) is False for module in model.modules())
