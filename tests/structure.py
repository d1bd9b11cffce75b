"""The structure of models: equal in two of them, and unchanged by a compression that fails."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import shapeshift


def assert_looks_like(model: nn.Module, plain: nn.Module) -> None:
    """Assert that two models differ in nothing but values."""
    for (path, module), (expected_path, expected) in zip(
        model.named_modules(remove_duplicate=False), plain.named_modules(remove_duplicate=False), strict=True
    ):
        assert path == expected_path
        assert type(module) is type(expected)
        assert set(vars(module)) == set(vars(expected))
        for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_state_dict_hooks"):
            assert len(getattr(module, kind)) == len(getattr(expected, kind))
        assert list(module._parameters) == list(expected._parameters)
        assert list(module._buffers) == list(expected._buffers)
    pairs = zip(
        model.named_parameters(remove_duplicate=False), plain.named_parameters(remove_duplicate=False), strict=True
    )
    twins: dict[int, int] = {}
    for (path, parameter), (expected_path, expected) in pairs:
        assert path == expected_path
        assert type(parameter) is type(expected)
        assert parameter.is_leaf
        for attribute in ("shape", "dtype", "device", "requires_grad"):
            assert getattr(parameter, attribute) == getattr(expected, attribute), (path, attribute)
        assert parameter.stride() == expected.stride()
        assert twins.setdefault(id(expected), id(parameter)) == id(parameter), f"{path} lost its tie"
    assert len(set(twins.values())) == len(twins), "weights that were apart are tied"
    assert list(model.state_dict()) == list(plain.state_dict())


def assert_unchanged_by(model: nn.Module, error: type[Exception], match: str, *args: Any, **options: Any) -> None:
    """Assert that compressing a model fails, and leaves it as it was."""
    before = copy.deepcopy(model)
    with pytest.raises(error, match=match):
        shapeshift.compress(model, *args, **options)
    assert_looks_like(model, before)
    for (name, tensor), expected in zip(model.state_dict().items(), before.state_dict().values(), strict=True):
        assert torch.equal(tensor, expected) or tensor.isnan().any(), name
    assert not shapeshift.is_compressed(model)
