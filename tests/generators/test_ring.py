"""The ring: which entry is read where, how often, and the derivatives of reading."""

from __future__ import annotations

import copy
import io
from collections import Counter

import pytest
import torch
from torch import Tensor, nn

import shapeshift
from shapeshift.generators.mixing.blocks import RingMixture, Stretch, order_of_blocks, signs_of_blocks
from shapeshift.generators.ring import Ring, RingLayout
from shapeshift.surgery.roots import require_shared
from tests.models import mlp
from tests.tolerances import assert_close


def ring_of(model: nn.Module) -> Ring:
    (ring,) = require_shared(model).generators()
    assert isinstance(ring, Ring)
    return ring


def sources(ring: Ring) -> list[Tensor]:
    """Return the entry that each entry of each weight reads, from 1, with its sign."""
    with torch.no_grad():
        ring.double()
        ring.gains.fill_(1.0)
        entries = torch.arange(1.0, ring.layout.size + 1).unsqueeze(1)
        for piece, values in zip(ring.store, entries.split(list(map(len, ring.store))), strict=True):
            piece.copy_(values)
        return [weight.long() for weight in ring.generate(range(len(ring.weights)))]


def test_the_order_and_the_signs_are_the_same_on_every_machine() -> None:
    assert order_of_blocks(10, 9, 0).tolist() == [5, 7, 8, 2, 0, 3, 1, 6, 4, 9]
    assert signs_of_blocks(10, 0).tolist() == [1, 1, -1, 1, 1, -1, 1, 1, -1, 1]
    assert order_of_blocks(10, 9, 2**62).tolist() == [2, 5, 7, 1, 4, 0, 6, 8, 3, 9]


@pytest.mark.parametrize("block", [1, 2, 3, 16])
@pytest.mark.parametrize("budget", [0.3, 0.5, 0.97, 1.0])
def test_each_entry_is_read_equally_often(budget: float, block: int) -> None:
    layers = nn.Sequential(nn.Linear(24, 41, bias=False), nn.Linear(41, 31, bias=False), nn.Linear(31, 7, bias=False))
    ring = ring_of(shapeshift.compress(layers, budget, combine="ring", ring_block=block))
    counts = Counter(torch.cat([found.flatten() for found in sources(ring)]).abs().tolist())
    assert set(counts) == set(range(1, ring.layout.size + 1))
    assert max(counts.values()) - min(counts.values()) <= (budget < 1.0)


def test_entries_lie_in_a_random_order_and_have_random_signs() -> None:
    ring = ring_of(shapeshift.compress(mlp(64, 4), 0.5, combine="ring", ring_block=1))
    found = torch.cat([weight.flatten() for weight in sources(ring)])
    assert 0.45 < (found > 0).double().mean() < 0.55
    rising = (found.abs().diff() > 0).double().mean()
    assert 0.45 < rising < 0.55


def test_a_block_stays_together_and_has_one_sign() -> None:
    ring = ring_of(shapeshift.compress(mlp(64, 4), 0.5, combine="ring", ring_block=8))
    assert ring.layout.block == 8
    found = torch.cat([weight.flatten() for weight in sources(ring)])
    blocks = found[: len(found) // 8 * 8].view(-1, 8)
    assert (blocks.sign() == blocks[:, :1].sign()).all()
    assert (blocks.abs().diff() == 1).all()


def test_blocks_are_smaller_where_the_ring_is_small() -> None:
    assert ring_of(shapeshift.compress(mlp(16, 2), 0.5, combine="ring")).layout.block < 10


def test_at_its_own_size_a_model_has_an_entry_for_each_of_its_own() -> None:
    model = shapeshift.compress(nn.Sequential(nn.Linear(13, 17), nn.Linear(17, 13)), 1.0, combine="ring")
    assert ring_of(model).layout.size == 2 * 13 * 17


# Weights that begin and end within blocks, within one block, and at the bounds of blocks.
STRETCHES = [Stretch(0, 5, 4, 0), Stretch(5, 2, 4, 1), Stretch(7, 13, 4, 0), Stretch(20, 8, 4, 2), Stretch(28, 1, 4, 2)]


class TestReading:
    order = torch.tensor([0, 2, 1, 0, 1, 2, 2, 0], dtype=torch.int32)
    signs = torch.tensor([1, -1, -1, 1, 1, -1, 1, 1], dtype=torch.int8)
    gains = torch.tensor([0.5, 2.0, 3.0], dtype=torch.float64)

    def read(self, store: Tensor, form: str = "fast") -> list[Tensor]:
        mixture = RingMixture(store.split(5), self.gains, self.order, self.signs, 4)
        shapes = [(stretch.numel,) for stretch in STRETCHES]
        return mixture.weights(STRETCHES, shapes) if form == "fast" else mixture.plain(mixture.tensors, STRETCHES)

    def ring(self) -> Tensor:
        return torch.randn(12, 1, dtype=torch.float64, requires_grad=True)

    def test_the_formula(self) -> None:
        store = self.ring()
        entries = (store.view(3, 4)[self.order.long()] * self.signs.unsqueeze(1)).flatten()
        expected = [entries[found.begin : found.begin + found.numel] * self.gains[found.gain] for found in STRETCHES]
        for form in ("fast", "plain"):
            assert_close(self.read(store, form), expected, "double")

    def test_the_fast_form_agrees_with_the_plain_one_bit_by_bit(self) -> None:
        store = self.ring()
        assert all(map(torch.equal, self.read(store), self.read(store, "plain")))

    def test_derivatives(self) -> None:
        store = self.ring()
        assert torch.autograd.gradcheck(lambda ring: tuple(self.read(ring)), store)
        assert torch.autograd.gradgradcheck(lambda ring: tuple(self.read(ring)), store)

    def test_some_results_unused(self) -> None:
        store = self.ring()
        found = torch.autograd.grad(self.read(store)[2].sum(), store)
        expected = torch.autograd.grad(self.read(store, "plain")[2].sum(), store)
        assert_close(found, expected, "double")


@pytest.mark.parametrize("block", [1, 64])
@pytest.mark.parametrize("recompute", [False, True])
def test_a_compiled_model_computes_the_same(recompute: bool, block: int) -> None:
    model, x = mlp(16, 2), torch.randn(3, 16)
    model = shapeshift.compress(model, 0.5, combine="ring", ring_block=block, recompute=recompute)
    store = ring_of(model).store[0]
    expected = torch.autograd.grad(model(x).square().sum(), store)
    compiled = torch.compile(copy.deepcopy(model), backend="aot_eager", fullgraph=True)
    found = torch.autograd.grad(compiled(x).square().sum(), ring_of(compiled._orig_mod).store[0])
    assert_close(found, expected, "compiled")


def test_nothing_but_a_seed_is_saved_with_the_ring() -> None:
    model = shapeshift.compress(mlp(32, 2), 0.5, combine="ring")
    ring = ring_of(model)
    assert list(ring.state_dict()) == ["gains", "store.0"]
    assert ring.layout.to_dict()["seed"] == 0


def test_state_dicts_fit_whatever_the_seed() -> None:
    one, other = (shapeshift.compress(mlp(32, 2), 0.5, combine="ring", seed=seed) for seed in (1, 2))
    other.load_state_dict({name: value.clone() for name, value in one.state_dict().items()})
    x = torch.randn(2, 32)
    assert_close(other(x), one(x), "identical")


def test_a_model_that_is_emptied_or_assigned_keeps_its_order() -> None:
    expected = shapeshift.compress(mlp(32, 2), 0.5, combine="ring")
    x = torch.randn(2, 32)
    with torch.device("meta"):
        empty, assigned = (shapeshift.compress(mlp(32, 2), 0.5, combine="ring") for _ in range(2))
    empty.to_empty(device="cpu")
    empty.load_state_dict(expected.state_dict())
    assigned.load_state_dict(expected.state_dict(), assign=True)
    file = io.BytesIO()
    torch.save(expected, file)
    file.seek(0)
    for model in (empty, assigned, expected.half().float(), torch.load(file, weights_only=False)):
        assert_close(model.float()(x), expected(x), "half")


@pytest.mark.parametrize("change", [{"size": 500}, {"block": 3}, {"zeros": 1}, {"seed": -1}, {"block": 0}])
def test_a_damaged_layout_is_refused(change: dict[str, int]) -> None:
    model = shapeshift.compress(nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 8)), 200, combine="ring", ring_block=2)
    ring = ring_of(model)
    fields = ring.layout.to_dict()
    assert RingLayout.from_dict(fields, ring.weights) == ring.layout
    with pytest.raises(ValueError, match="RingLayout"):
        RingLayout.from_dict({**fields, **change}, ring.weights)
