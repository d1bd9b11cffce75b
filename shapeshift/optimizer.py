"""Optimizer groups: the parameters with weight decay, those without, and the matrices for an optimizer such as Muon."""

from __future__ import annotations

from typing import Any

from torch import nn

from shapeshift.errors import ModelError
from shapeshift.surgery.parts import describe_sharing, how_to_separate, serves_others, sources_read_in
from shapeshift.surgery.roots import check_registered, find_roots
from shapeshift.weights import is_weight_shape


def parameter_groups(model: nn.Module, weight_decay: float, *, use_muon: bool = False) -> list[dict[str, Any]]:
    """Split a model's trainable parameters into optimizer groups with and without weight decay.

    Stores and weights are decayed. Coefficients are not: their decay would also shrink the templates that they
    multiply. Nor are biases and norms.

    Muon (Jordan et al., 2024, "Muon: An optimizer for hidden layers in neural networks") makes the update of a matrix
    orthogonal. A store is no matrix, so torch's Muon has to leave the shared parameters to AdamW;
    :class:`shapeshift.Muon` trains them too.

    Args:
        model: A compressed model, a plain one, a wrapper around either (such as DDP), or a part of a compressed model
            whose weights are in groups of their own. Parts can so have learning rates of their own.
        weight_decay: The weight decay of the first group.
        use_muon: Whether matrices that are not generated get a group of their own, for Muon.

    Returns:
        Two groups. The second one, without decay, holds the coefficients and all parameters with at most one
        dimension; the first one holds the others. Each tensor occurs once, and frozen parameters do not occur.
        With ``use_muon``, a group of matrices is in front of them. It has an entry ``use_muon`` of True and the others
        one of False, which timm's Muon and Muon's reference implementation read. For ``torch.optim.Muon``, which takes
        nothing else, pass it the first group and another optimizer the rest.

    Raises:
        ModelError: If nothing in the model is trainable, or a part shares trainable parameters with the rest of its
            model; the error names the mapping that keeps them apart.

    Example:
        >>> import shapeshift, torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.Linear(16, 16))
        >>> model = shapeshift.compress(model, "120%", mapping={"0": "first", "*": "rest"})
        >>> groups = shapeshift.parameter_groups(model, weight_decay=5e-4)
        >>> [len(group["params"]) for group in groups]  # two stores; coefficients and biases
        [2, 3]
        >>> slow = [{**group, "lr": 0.01} for group in shapeshift.parameter_groups(model[0], weight_decay=5e-4)]
        >>> optimizer = torch.optim.SGD([*slow, *shapeshift.parameter_groups(model[1], weight_decay=5e-4)], lr=0.1)
    """
    for root in find_roots(model):
        check_registered(root)
    parameters = dict.fromkeys(model.parameters())
    shared: set[nn.Parameter] = set()
    coefficients: set[nn.Parameter] = set()
    for source, indices in sources_read_in(model).items():
        found = list(source.generator.parameters())
        missing = any(parameter.requires_grad and parameter not in parameters for parameter in found)
        if missing and serves_others(source, indices):
            raise ModelError(
                f"this {type(model).__name__} is a part of a compressed model that shares parameters with others: "
                f"{describe_sharing(source, indices)}. {how_to_separate(source, indices)}"
            )
        shared.update(found)
        parameters.update(dict.fromkeys(found))
        coefficients.update(source.generator.coefficient_parameters())
    embeddings = {
        module._parameters.get("weight")
        for module in model.modules()
        if isinstance(module, nn.Embedding | nn.EmbeddingBag)
    }
    matrices: list[nn.Parameter] = []
    with_decay: list[nn.Parameter] = []
    without_decay: list[nn.Parameter] = []
    for parameter in parameters:
        if not parameter.requires_grad:
            continue
        is_matrix = parameter.dim() == 2 and is_weight_shape(parameter.shape)
        if use_muon and is_matrix and parameter not in shared and parameter not in embeddings:
            matrices.append(parameter)
        elif parameter.dim() <= 1 or parameter in coefficients:
            without_decay.append(parameter)
        else:
            with_decay.append(parameter)
    if not matrices and not with_decay and not without_decay:
        raise ModelError(f"{type(model).__name__} has no trainable parameter: nothing is left for an optimizer")
    groups: list[dict[str, Any]] = [
        {"params": with_decay, "weight_decay": weight_decay},
        {"params": without_decay, "weight_decay": 0.0},
    ]
    if use_muon:
        first = {"params": matrices, "weight_decay": weight_decay, "use_muon": True}
        return [first, *({**group, "use_muon": False} for group in groups)]
    return groups
