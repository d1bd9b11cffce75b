"""Weights that live only while their layers run: what is kept, and that it makes no difference elsewhere."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

import shapeshift
from tests.library_models import tiny_gpt2
from tests.methods import compressed
from tests.models import Language, gradients, loss_of, mlp
from tests.tolerances import assert_close


class Seen(nn.Linear):
    """Remembers the weights that it read, without keeping them."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight
        self.seen = weakref.ref(weight.untyped_storage())
        return torch.nn.functional.linear(x, weight, self.bias)


def chain(depth: int = 3, recompute: bool = True, **options: Any) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [layer for _ in range(depth) for layer in (Seen(32, 32), nn.Tanh())]
    return shapeshift.compress(nn.Sequential(*layers), 0.6, recompute=recompute, seed=0, **options)


def alive(model: nn.Module) -> list[bool]:
    gc.collect()
    return [layer.seen() is not None for layer in model if isinstance(layer, Seen)]


class TestWhatLives:
    def test_a_weight_dies_when_the_next_layer_reads_its_own(self) -> None:
        x = torch.randn(4, 32, requires_grad=True)  # or the first layer would not save its weight
        for recompute, expected in ((True, [False, False, False]), (False, [True, True, True])):
            model = chain(recompute=recompute)
            output = model(x)
            assert alive(model) == expected
            del output

    @pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
    def test_without_a_graph_no_weight_outlives_its_layer(self, mode: Any) -> None:
        model = chain(recompute=False)
        model[-1].register_forward_pre_hook(lambda *_: found.append(alive(model)))
        found: list[list[bool]] = []
        with mode():
            model(torch.randn(4, 32))
        assert found == [[False, False, True]]

    def test_the_cast_copies_of_autocast_are_not_kept(self) -> None:
        x = torch.randn(2, 32, requires_grad=True)
        kept = {}
        for recompute in (True, False):
            model, storages = chain(recompute=recompute), []

            def note(tensor: Tensor, storages: list[Any] = storages) -> Tensor:
                storages.append(tensor)
                return tensor.detach()

            with saved_tensors_hooks(note, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
                model(x)
            kept[recompute] = sum(tensor.shape == (32, 32) for tensor in storages)
        assert kept == {True: 0, False: 3}

    def test_a_compiler_is_told_to_generate_them_again(self) -> None:
        saved: dict[bool, list[tuple[int, ...]]] = {}
        for recompute in (True, False):
            torch.compiler.reset()

            def forward(graph: torch.fx.GraphModule, _: Any, recompute: bool = recompute) -> Any:
                outputs = graph.graph.output_node().args[0]
                saved[recompute] = [tuple(node.meta["val"].shape) for node in outputs]
                return make_boxed_func(graph)

            backend = aot_autograd(
                fw_compiler=forward,
                bw_compiler=lambda graph, _: make_boxed_func(graph),
                partition_fn=min_cut_rematerialization_partition,
            )
            model, x = shapeshift.compress(mlp(32), 0.6, recompute=recompute, seed=0), torch.randn(4, 32)
            expected = gradients(copy.deepcopy(model), (x,))
            model.compile(backend=backend, fullgraph=True)
            assert_close(gradients(model, (x,)), expected, "compiled")
        assert (32, 32) not in saved[True]
        assert (32, 32) in saved[False]


@pytest.mark.parametrize("build", [lambda: mlp(depth=3), Language], ids=["mlp", "language"])
class TestSameAsKept:
    """Every way to run a backward pass, with weights that are kept and recomputed."""

    def both(self, build: Any) -> tuple[nn.Module, nn.Module, Any]:
        torch.manual_seed(0)
        kept = compressed(build(), 0.5, seed=0)
        x = torch.randint(31, (2, 6)) if isinstance(kept, Language) else torch.randn(3, 16)
        return kept, shapeshift.set_recompute(copy.deepcopy(kept)), x

    def grads(self, model: nn.Module) -> dict[str, Tensor]:
        return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

    def test_retained_graphs_and_accumulation(self, build: Any) -> None:
        *models, x = self.both(build)
        found = []
        for model in models:
            loss = loss_of(model(x))
            for _ in range(3):
                loss.backward(retain_graph=True)
            loss_of(model(x)).backward()
            found.append(self.grads(model))
        assert_close(*found, "identical")

    def test_double_backward(self, build: Any) -> None:
        *models, x = self.both(build)
        found = []
        for model in models:
            parameters = list(model.parameters())
            with sdpa_kernel(SDPBackend.MATH):  # the others have no second derivative
                grads = torch.autograd.grad(loss_of(model(x)), parameters, create_graph=True)
            torch.stack([gradient.square().sum() for gradient in grads]).sum().backward()
            found.append(self.grads(model))
        assert_close(*found, "identical")

    def test_hooks_and_weights_that_forward_hooks_read(self, build: Any) -> None:
        *models, x = self.both(build)
        found = []
        for model in models:
            layer = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
            seen: list[Tensor] = []
            layer.weight.register_hook(lambda gradient, seen=seen: seen.append(gradient.clone()))
            layer.register_forward_hook(lambda module, *_, seen=seen: seen.append(module.weight))
            loss = loss_of(model(x))
            (gradient,) = torch.autograd.grad(loss, seen[0], retain_graph=True)
            seen[0].retain_grad()
            loss.backward()
            assert_close(seen[0].grad, gradient, "identical")
            found.append([gradient, seen[-1]])
        assert_close(*found, "identical")

    def test_autocast(self, build: Any) -> None:
        *models, x = self.both(build)
        found = []
        for model in models:
            with torch.autocast("cpu", torch.bfloat16):
                loss = loss_of(model(x))
            loss.backward()
            found.append(self.grads(model))
        assert_close(*found, "identical")

    @pytest.mark.parametrize("use_reentrant", [False, True])
    def test_checkpointing_around_the_model(self, build: Any, use_reentrant: bool) -> None:
        *models, x = self.both(build)
        found = []
        for model in models:
            start = torch.ones(1, requires_grad=True)
            output = checkpoint(lambda start, model=model: model(x) * start, start, use_reentrant=use_reentrant)
            loss_of(output).backward()
            found.append(self.grads(model))
        assert_close(*found, "identical")

    def test_functional_calls_keep_their_own_parameters(self, build: Any) -> None:
        *models, x = self.both(build)
        found = []
        for model in models:
            given = {name: (2 * value.detach()).requires_grad_() for name, value in model.named_parameters()}
            output = torch.func.functional_call(model, given, (x,))
            found.append(torch.autograd.grad(loss_of(output), list(given.values())))
        assert_close(*found, "identical")

    def test_function_transforms(self, build: Any) -> None:
        *models, x = self.both(build)

        def loss(parameters: dict[str, Tensor], model: nn.Module) -> Tensor:
            return loss_of(torch.func.functional_call(model, parameters, (x,)))

        found = [torch.func.grad(loss)(dict(model.named_parameters()), model) for model in models]
        assert_close(*found, "identical")

    def test_other_hooks_still_see_what_is_saved(self, build: Any) -> None:
        *models, x = self.both(build)
        found, counts = [], []
        for model in models:
            seen: list[Tensor] = []
            with saved_tensors_hooks(
                lambda tensor, seen=seen: seen.append(tensor) or tensor.clone(), lambda kept: kept
            ):
                loss_of(model(x)).backward()
            found.append(self.grads(model))
            counts.append(len(seen))
        assert_close(*found, "identical")
        assert 0 < counts[1] < counts[0]


class TestErrors:
    def test_a_step_between_forward_and_backward(self) -> None:
        model, x = chain(), torch.randn(2, 32)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model(x).sum().backward()
        output = model(x).sum()
        optimizer.step()
        with pytest.raises(RuntimeError, match=r"4\.weight was generated .* modified by an inplace operation"):
            output.backward()

    def test_an_activation_that_is_overwritten(self) -> None:
        class Overwrites(nn.Sequential):
            def forward(self, x: Tensor) -> Tensor:
                hidden = self[0](x).tanh()
                output = self[1](hidden)
                with torch.no_grad():
                    hidden.zero_()
                return output

        model = shapeshift.compress(Overwrites(nn.Linear(16, 16), nn.Linear(16, 16)), 0.6, recompute=True)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            model(torch.randn(2, 16)).sum().backward()

    def test_a_weight_that_is_written_to(self) -> None:
        class Clips(nn.Linear):
            def forward(self, x: Tensor) -> Tensor:
                with torch.no_grad():
                    self.weight.clamp_(-0.1, 0.1)
                return super().forward(x)

        for recompute in (True, False):
            model = shapeshift.compress(nn.Sequential(Clips(16, 16), nn.Linear(16, 16)), 0.6, recompute=recompute)
            with pytest.raises(shapeshift.GeneratedWeightError, match=r"0\.weight .* written to"):
                model(torch.randn(2, 16))

    def test_what_is_no_compressed_model(self) -> None:
        with pytest.raises(shapeshift.ModelError, match="not compressed"):
            shapeshift.set_recompute(nn.Linear(2, 2))


def test_gradient_checkpointing_of_transformers() -> None:
    found = []
    for recompute in (False, True):
        for use_reentrant in (False, True):
            torch.manual_seed(0)
            model = compressed(tiny_gpt2(), 0.5, seed=0, recompute=recompute).train()
            model.activation_checkpointing_enable({"use_reentrant": use_reentrant})
            tokens = torch.randint(48, (2, 8), generator=torch.Generator().manual_seed(0))
            torch.manual_seed(1)
            loss = model(tokens, labels=tokens).loss
            loss.backward()
            found.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert_close(found[2], found[0], "identical")
    assert_close(found[3], found[1], "identical")


def test_a_graph_is_freed_without_the_garbage_collector() -> None:
    model, seen = chain(), []
    model[1].register_forward_hook(lambda *arguments: seen.append(weakref.ref(arguments[-1].untyped_storage())))
    gc.collect()
    gc.disable()
    try:
        output = model(torch.randn(2, 32))
        assert seen[0]() is not None
        del output
        assert seen[0]() is None
    finally:
        gc.enable()
