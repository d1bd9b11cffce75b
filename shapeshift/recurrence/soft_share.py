"""Soft sharing: layers of one stage and one shape that mix the same few templates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from torch import nn

from shapeshift.compression import check_compressible
from shapeshift.config import Config
from shapeshift.errors import ConfigError, ModelError
from shapeshift.plan import Plan, group_weights, make_plan
from shapeshift.recurrence.rows import find_rows
from shapeshift.surgery.install import install
from shapeshift.surgery.shared_parameters import SharedParameters
from shapeshift.weights import Weight, find_weights

ModelT = TypeVar("ModelT", bound=nn.Module)


def soft_share(
    model: ModelT, templates: int | None = None, *, include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> ModelT:
    r"""Let layers of one shape mix the same templates, :math:`W_i = \sum_k \alpha_{ik} T_k`, stage by stage.

    Savarese and Maire, "Learning Implicitly Recurrent CNNs Through Parameter Sharing", ICLR 2019. Applied to WRN-L-w
    this is their SWRN-L-w-k. It equals ``compress`` with ``combine="wavg"``, a mapping by stage and shape,
    ``coefficients="orthogonal"``, and a budget of ``templates`` templates for each group.

    A group holds the weights of one shape in a row of blocks with the same structure. The first block of a stage, which
    changes the number of channels, keeps its own weights. So does a layer whose shape no other layer has, and a weight
    that starts at zero.

    Args:
        model: Any module. It is changed in place.
        templates: The number of templates of each group, at most the number of its weights. None stands for that
            number: the model then has no fewer parameters than before.
        include: Names or shell patterns of parameters or modules. If there are any, their weights share in groups of
            one shape, and the rule above does not apply.
        exclude: Names or shell patterns of parameters or modules that keep their own weights.

    Returns:
        The same model. Train its coefficients without weight decay, as with :func:`shapeshift.parameter_groups`.

    Raises:
        ConfigError: If ``templates`` is neither None nor a positive integer, or a pattern matches nothing.
        ModelError: If no two layers can share, or the model cannot be compressed. It is unchanged after any error.

    Example:
        >>> import shapeshift
        >>> from shapeshift.networks.wide_resnet import WideResNet
        >>> from shapeshift.recurrence import soft_share
        >>> dense = shapeshift.count_parameters(WideResNet(28, 0.5))
        >>> model = soft_share(WideResNet(28, 0.5), templates=2)
        >>> list(model.shapeshift)
        ['stage1_8x8x3x3', 'stage2_16x16x3x3', 'stage3_32x32x3x3']
        >>> shapeshift.count_parameters(model) < dense / 2
        True
    """
    if templates is not None and (isinstance(templates, bool) or not isinstance(templates, int) or templates < 1):
        raise ConfigError(f"templates must be None or an integer of at least 1, not {templates!r}")
    check_compressible(model)
    plan = _plan(model, templates, include, exclude)
    shared = SharedParameters(plan)
    shared.reset_parameters()
    install(model, shared)
    return model


def _plan(model: nn.Module, templates: int | None, include: Sequence[str], exclude: Sequence[str]) -> Plan:
    patterns: dict[str, Any] = {"include": include, "exclude": exclude}
    Config(**patterns)  # raises for what is no sequence of names
    candidates = [weight for weight in find_weights(model, include, exclude) if weight.std > 0]
    labels = _shapes(candidates) if include else _stages(model)
    labelled = [(weight, labels[weight.name]) for weight in candidates if weight.name in labels]
    groups = group_weights([weight for weight, _ in labelled], [label for _, label in labelled])
    groups = {name: weights for name, weights in groups.items() if len(weights) > 1}
    if not groups:
        raise ModelError(
            f"{type(model).__name__} has no two layers of one shape in neighbouring blocks of one structure: "
            "nothing can share. Name the layers that are to share with include="
        )
    counts = {name: min(templates or len(weights), len(weights)) for name, weights in groups.items()}
    config = Config(
        mapping={weight.name: name for name, weights in groups.items() for weight in weights},
        combine="wavg",
        max_templates=max(counts.values()),
        include=tuple(weight.name for weights in groups.values() for weight in weights),
        coefficients="orthogonal",
    )
    store_sizes = {name: counts[name] * weights[0].numel for name, weights in groups.items()}
    return make_plan(model, None, config, SharedParameters.reserved_names(), store_sizes)


def _shapes(weights: Sequence[Weight]) -> dict[str, str]:
    return {weight.name: "x".join(map(str, weight.shape)) for weight in weights}


def _stages(model: nn.Module) -> dict[str, str]:
    """Label each parameter of the model's stages with its stage and its shape."""
    return {
        f"{step}.{name}": f"stage{number}_{'x'.join(map(str, parameter.shape))}"
        for number, stage in enumerate(find_rows(model), start=1)
        for step in stage.steps
        for name, parameter in model.get_submodule(step).named_parameters(remove_duplicate=False)
    }
