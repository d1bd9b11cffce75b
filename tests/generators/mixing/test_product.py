"""The product of coefficients and templates: its fast form, its formula, and its derivatives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from shapeshift.generators.mixing.assembly import Assembly
from shapeshift.generators.mixing.combinations import Combination
from shapeshift.generators.mixing.product import mix, mix_plain
from shapeshift.surgery.roots import require_shared
from tests.methods import compressed
from tests.models import mlp
from tests.tolerances import assert_close

DRAWS = [  # disjoint, overlapping evenly, single, and two of the same templates
    Combination(0, 2, 6, 12, 0),
    Combination(3, 3, 8, 12, 2),
    Combination(0, 1, 15, 15, 5),
    Combination(0, 2, 6, 12, 6),
]


MIXTURES = list(map(Assembly.of, DRAWS))


class TestMixing:
    def numbers(self) -> tuple[Tensor, Tensor]:
        return (
            torch.randn(15, 1, dtype=torch.float64, requires_grad=True),
            torch.randn(8, dtype=torch.float64, requires_grad=True),
        )

    def test_the_fast_form_agrees_with_the_plain_one(self) -> None:
        store, coefficients = self.numbers()
        results = []
        for form in (mix, mix_plain):
            mixtures = form(store.split(13), coefficients, MIXTURES)
            loss = sum((mixture**3).sum() for mixture in mixtures)
            results.append((list(mixtures), torch.autograd.grad(loss, (store, coefficients))))
        assert_close(results[0], results[1], "double")

    def test_the_formula(self) -> None:
        store, coefficients = self.numbers()
        for draw, mixture in zip(DRAWS, mix(store.split(13), coefficients, MIXTURES), strict=True):
            begins = [draw.offset + k * (draw.span - draw.size) // max(1, draw.count - 1) for k in range(draw.count)]
            expected = sum(
                coefficients[draw.start + k] * store[begin : begin + draw.size, 0] for k, begin in enumerate(begins)
            )
            assert_close(mixture, expected, "double")

    def test_double_backward(self) -> None:
        store, coefficients = self.numbers()
        assert torch.autograd.gradcheck(lambda s, c: tuple(mix(s.split(13), c, MIXTURES)), (store, coefficients))
        assert torch.autograd.gradgradcheck(lambda s, c: tuple(mix(s.split(13), c, MIXTURES)), (store, coefficients))

    @pytest.mark.parametrize("frozen", [0, 1])
    def test_one_side_frozen(self, frozen: int) -> None:
        inputs = self.numbers()
        inputs[frozen].requires_grad_(False)
        assert torch.autograd.gradcheck(lambda s, c: tuple(mix(s.split(13), c, MIXTURES)), inputs)
        assert torch.autograd.gradgradcheck(lambda s, c: tuple(mix(s.split(13), c, MIXTURES)), inputs)

    def test_some_results_unused(self) -> None:
        store, coefficients = self.numbers()
        found = torch.autograd.grad(mix(store.split(13), coefficients, MIXTURES)[1].sum(), (store, coefficients))
        expected = torch.autograd.grad(mix_plain([store], coefficients, MIXTURES)[1].sum(), (store, coefficients))
        assert_close(found, expected, "double")

    def test_gradient_penalty_of_a_model_equals_finite_differences(self) -> None:
        model, x = compressed(mlp(8, 2).double()), torch.randn(2, 8, dtype=torch.float64)
        store = require_shared(model)["all"].store[0]

        def penalty() -> Tensor:
            parameters = list(model.parameters())
            found = torch.autograd.grad(model(x).square().sum(), parameters, create_graph=True)
            return sum(gradient.square().sum() for gradient in found)

        (found,) = torch.autograd.grad(penalty(), store)
        for index in (0, 7):
            step = 1e-5
            values = []
            for sign in (1, -1):
                with torch.no_grad():
                    store[index] += sign * step
                values.append(penalty().item())
                with torch.no_grad():
                    store[index] -= sign * step
            assert_close(found[index].item(), (values[0] - values[1]) / (2 * step), "finite differences")
