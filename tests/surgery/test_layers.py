"""The classes of layers with generated weights: methods, attributes, and the class of the original."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import shapeshift
from shapeshift import GeneratedWeightError, ModelError
from shapeshift.surgery.roots import require_shared
from tests.models import Residual, gradients, mlp
from tests.tolerances import assert_close


class Running(nn.Module):
    """Runs all of its children."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([child(x) for child in self.children()])


def test_a_forward_that_runs_all_children_runs_the_models_own() -> None:
    model, x = shapeshift.compress(Running(), "60%"), torch.randn(4, 8)
    outputs = model(x)
    assert len(outputs) == 3
    assert_close(shapeshift.materialize(model)(x), outputs, "reordered")


def test_who_leaves_out_the_last_child_leaves_out_the_models_own() -> None:
    model, x = shapeshift.compress(Running(), "60%"), torch.randn(4, 8)
    shorter = nn.Sequential(*list(model.children())[:-1])
    assert_close(shorter(x), model.second(model.first(x)), "reordered")
    shorter(x).sum().backward()
    assert any(parameter.grad is not None for parameter in shorter.parameters())
    assert next(iter(model.state_dict())).startswith("shapeshift.")


class Scaling(nn.Linear):
    """Writes to its weight, and has an attribute of the name that embeddings have."""

    max_norm = 1.0

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.weight.clamp_(-self.max_norm, self.max_norm)
        return super().forward(x)


class TestMaxNorm:
    @pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
    def test_embeddings_scale_their_rows_in_a_copy(self, kind: type[nn.Embedding | nn.EmbeddingBag]) -> None:
        model = nn.Sequential(kind(20, 8, max_norm=0.5), nn.Linear(8, 8))
        nn.init.normal_(model[0].weight)
        shapeshift.compress(model, "60%")
        tokens = torch.arange(20)[:, None]
        outputs, found = model(tokens), gradients(model, (tokens,))
        assert model[0](tokens).flatten(0, -2).norm(dim=1).max() < 0.5 + 1e-5
        assert F.embedding(tokens, model[0].weight + 0).norm(dim=2).max() > 0.5
        without = gradients(nn.Sequential(*model), (tokens,))
        assert_close({name: found[name] for name in without}, without, "reordered gradient")
        assert_close(shapeshift.materialize(model)(tokens), outputs, "reordered")

    def test_other_writes_to_such_embeddings_are_refused(self) -> None:
        model = shapeshift.compress(nn.Sequential(nn.Embedding(20, 8, max_norm=0.5), nn.Linear(8, 8)), "60%")
        with pytest.raises(GeneratedWeightError, match=r"0\.weight \(20, 8\)"):
            nn.init.ones_(model[0].weight)
        model[1].register_forward_pre_hook(lambda *_: model[0].weight.data.zero_())
        with pytest.raises(GeneratedWeightError, match=r"0\.weight \(20, 8\)"):
            model(torch.arange(20))

    def test_an_attribute_of_that_name_makes_no_embedding(self) -> None:
        model = shapeshift.compress(nn.Sequential(Scaling(8, 8), nn.Linear(8, 8)), "60%")
        with pytest.raises(GeneratedWeightError, match=r"0\.weight \(8, 8\).*written to during the forward pass"):
            model(torch.randn(2, 8))
        with pytest.raises(GeneratedWeightError, match=r"0\.weight \(8, 8\).*clamp_"):
            model[0](torch.randn(2, 8))


def test_a_forward_that_was_replaced_on_the_instance_still_runs() -> None:
    model, x = mlp(), torch.randn(2, 16)
    forward = model.forward
    model.forward = lambda x: forward(x) * 2
    shapeshift.compress(model, 0.6)
    expected = model(x)
    found = gradients(model, (x,))
    assert any(".store." in name for name in found)
    assert_close(shapeshift.materialize(model)(x), expected, "identical")


class TestParametrizations:
    # The original of an orthogonal one is triangular.
    @pytest.mark.filterwarnings("ignore:.* start with zeros among other values:shapeshift.ShapeshiftWarning")
    @pytest.mark.parametrize("name", ["weight_norm", "spectral_norm", "orthogonal"])
    def test_of_torch_are_kept(self, name: str) -> None:
        torch.manual_seed(0)
        layer = getattr(nn.utils.parametrizations, name)(nn.Linear(12, 12))
        model, x = nn.Sequential(layer, nn.Tanh(), nn.Linear(12, 12)).eval(), torch.randn(2, 12)
        shapeshift.compress(model, 0.8)
        expected = model(x)
        assert all(gradient.isfinite().all() for gradient in gradients(model, (x,)).values())
        shapeshift.materialize(model)
        assert_close(model(x), expected, "identical")
        assert nn.utils.parametrize.is_parametrized(model[0])

    def test_those_of_afterwards_are_kept_or_named(self) -> None:
        class Doubled(nn.Module):
            def forward(self, bias: Tensor) -> Tensor:
                return 2 * bias

        model, x = shapeshift.compress(nn.Sequential(nn.Linear(12, 12), nn.Linear(12, 12)), 0.5), torch.randn(2, 12)
        plain = model(x)
        nn.utils.parametrize.register_parametrization(model[0], "bias", Doubled())
        expected = model(x)
        with pytest.raises(ModelError, match="0 became a ParametrizedLinear after it was compressed"):
            shapeshift.materialize(model)
        assert_close(model(x), expected, "identical")
        nn.utils.parametrize.remove_parametrizations(model[0], "bias", leave_parametrized=False)
        assert_close(shapeshift.materialize(model)(x), plain, "identical")


def test_data_parallel_copies_are_refused() -> None:
    model = shapeshift.compress(mlp(), 0.5)
    with pytest.raises(ModelError, match=r"use torch\.nn\.parallel\.DistributedDataParallel"):
        model._replicate_for_data_parallel()


def test_subclasses_keep_their_methods_and_super_calls() -> None:
    class Scaled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * self.scale()

        def scale(self) -> float:
            return 2.0

    model, x = nn.Sequential(Scaled(8, 8), Scaled(8, 8)), torch.randn(2, 8)
    shapeshift.compress(model, 0.8)
    assert isinstance(model[0], Scaled)
    assert_close(model[0](x), 2 * nn.functional.linear(x, model[0].weight, model[0].bias), "identical")
    expected = model(x)
    assert_close(shapeshift.materialize(model)(x), expected, "identical")
    assert type(model[0]) is Scaled


def test_training_mode_reaches_every_layer() -> None:
    model = shapeshift.compress(Residual(), 0.5)
    assert all(module.training for module in model.modules())
    assert not any(module.training for module in model.eval().modules())


def test_a_generator_that_lacks_an_attribute_is_not_a_layer_without_a_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    model = shapeshift.compress(nn.Sequential(nn.Linear(8, 8)), "50%")
    (generator,) = require_shared(model).generators()

    def make(*_: object) -> None:
        raise AttributeError("no such thing")

    monkeypatch.setattr(generator, "make", make)
    monkeypatch.setattr(generator, "recompute", make)
    for mode in (torch.enable_grad, torch.inference_mode):
        with mode(), pytest.raises(RuntimeError, match=r"0\.weight cannot be generated: no such thing"):
            model(torch.ones(1, 8))
