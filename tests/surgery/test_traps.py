"""Each way in which generated weights are known to go wrong, by its name."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file, save_file
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.utils.checkpoint import checkpoint

import shapeshift
from shapeshift import GeneratedWeightError
from shapeshift.generators import GENERATORS, WeightGenerator
from shapeshift.generators.mixing.assembly import Assembly
from shapeshift.generators.mixing.combinations import Combination
from shapeshift.generators.mixing.product import mix, mix_plain
from shapeshift.surgery.roots import require_shared
from tests.models import MODELS, Convolutions, Language, Recurrent, Residual, gradients, loss_of, mlp, tensors
from tests.tolerances import assert_close

every_model = pytest.mark.parametrize("name", MODELS)


@pytest.fixture
def generations(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record the index of every weight that is generated from here on."""
    found: list[int] = []
    for generator in map(GENERATORS.__getitem__, GENERATORS):

        def recorded(
            self: WeightGenerator[Any], indices: Any, *memory: Any, generate: Callable[..., Any] = generator.generate
        ) -> list[Tensor]:
            found.extend(indices)
            return generate(self, indices, *memory)

        monkeypatch.setattr(generator, "generate", recorded)
    return found


def compressed(model: nn.Module, budget: float | str = 0.6, **options: Any) -> nn.Module:
    return shapeshift.compress(model, budget, **options)


def tiny_vit() -> nn.Module:
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=3, num_classes=5
    )


def tiny_gpt2(**options: Any) -> transformers.GPT2LMHeadModel:
    config = transformers.GPT2Config(
        vocab_size=48, n_positions=16, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0, **options
    )
    config.resid_pdrop = config.embd_pdrop = config.attn_pdrop = 0.0
    return transformers.GPT2LMHeadModel(config)


class TestGradientCheckpointing:
    def test_timm(self) -> None:
        model, images = compressed(tiny_vit(), mapping="single"), torch.randn(2, 3, 32, 32)
        expected = gradients(model, (images,))
        model.set_grad_checkpointing()
        assert_close(gradients(model, (images,)), expected, "identical")

    @pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")
    @pytest.mark.parametrize("use_reentrant", [False, True])
    @pytest.mark.parametrize("mapping", ["shape", "single"])
    def test_transformers(self, use_reentrant: bool, mapping: str) -> None:
        model, tokens = compressed(tiny_gpt2(), mapping=mapping), torch.randint(48, (2, 8))
        model.config.use_cache = False
        model.train()
        expected = gradients(model, (tokens,))
        model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
        model.enable_input_require_grads()
        found = gradients(model, (tokens,))
        assert model.is_gradient_checkpointing
        assert_close(found, expected, "reordered gradient")

    @pytest.mark.parametrize("use_reentrant", [False, True])
    def test_weight_used_twice_inside_and_once_outside(self, use_reentrant: bool) -> None:
        class Model(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layer, self.other = nn.Linear(8, 8), nn.Linear(8, 8)
                self.checkpointed = False

            def block(self, x: Tensor) -> Tensor:
                return self.layer(self.other(self.layer(x).tanh()).tanh())

            def forward(self, x: Tensor) -> Tensor:
                x = self.layer(x)
                return checkpoint(self.block, x, use_reentrant=use_reentrant) if self.checkpointed else self.block(x)

        model, x = compressed(Model()), torch.randn(3, 8)
        expected = gradients(model, (x,))
        model.checkpointed = True
        assert_close(gradients(model, (x,)), expected, "reordered gradient")


class TestStaleCache:
    def test_after_an_optimizer_step(self) -> None:
        model, x = compressed(mlp()), torch.randn(2, 16)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        before, weight = model(x), model[0].weight.clone()
        before.square().sum().backward()
        optimizer.step()
        assert not model[0].weight.equal(weight)
        assert not model(x).equal(before)
        assert_close(model(x), copy.deepcopy(model)(x), "identical")

    def test_after_load_state_dict(self) -> None:
        model, other, x = compressed(mlp()), compressed(mlp()), torch.randn(2, 16)
        weight = model[0].weight.clone()
        expected = other(x)
        assert not model(x).equal(expected)
        model.load_state_dict(other.state_dict())
        assert_close(model(x), expected, "identical")
        assert not model[0].weight.equal(weight)

    def test_after_a_copy_into_data(self) -> None:
        model, other, x = compressed(mlp()), compressed(mlp()), torch.randn(2, 16)
        model(x)
        for parameter, source in zip(model.parameters(), other.parameters(), strict=True):
            parameter.data.copy_(source.data)
        for buffer, source in zip(model.buffers(), other.buffers(), strict=True):
            buffer.copy_(source)
        assert_close(model(x), other(x), "identical")
        assert_close(model[0].weight.clone(), other[0].weight.clone(), "identical")

    def test_after_a_forward_that_failed(self) -> None:
        model, x = compressed(mlp()), torch.randn(2, 16)
        model(x)
        model[2].register_forward_pre_hook(lambda *_: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            model(x)
        weight = model[0].weight.clone()
        with torch.no_grad():
            for parameter in require_shared(model).parameters():
                parameter.mul_(2)
        assert not model[0].weight.equal(weight), "a forward that failed left its weights behind"


class TestNoGradForward:
    def test_leaves_nothing_detached_to_a_training_forward(self) -> None:
        model, x = compressed(mlp()), torch.randn(2, 16)
        expected = gradients(model, (x,))
        with torch.no_grad():
            model(x)
        assert_close(gradients(model, (x,)), expected, "identical")
        with torch.inference_mode():
            model(x)
        assert_close(gradients(model, (x,)), expected, "identical")

    def test_around_a_part_that_enables_gradients(self) -> None:
        class Part(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.frozen_part, self.trained_part = nn.Linear(8, 8), nn.Linear(8, 8)

            def forward(self, x: Tensor) -> Tensor:
                x = self.frozen_part(x)
                with torch.enable_grad():
                    return self.trained_part(x)

        model = compressed(Part())
        with torch.no_grad():
            output = model(torch.randn(2, 8))
        output.sum().backward()
        assert any(p.grad is not None and p.grad.any() for p in require_shared(model).parameters())


class TestDeepcopy:
    def test_of_a_teacher_is_independent(self) -> None:
        model, x = compressed(mlp()), torch.randn(2, 16)
        teacher = copy.deepcopy(model)
        expected = model(x).detach()
        torch.optim.SGD(model.parameters(), lr=1.0)
        gradients(model, (x,))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.sub_(parameter.grad)
        assert_close(teacher(x), expected, "identical")
        assert not model(x).equal(expected)
        assert all(parameter.grad is None for parameter in teacher.parameters())

    def test_made_inside_a_forward_is_independent(self) -> None:
        model, x = compressed(mlp()), torch.randn(2, 16)
        copies: list[nn.Module] = []
        handle = model[2].register_forward_hook(lambda *_: copies.append(copy.deepcopy(model)))
        model(x)
        handle.remove()
        with torch.no_grad():
            for parameter in copies[0].parameters():
                parameter.zero_()
        assert not copies[0][0].weight.any(), "the copy reads the original's weights"
        assert model[0].weight.any()

    def test_of_one_layer_keeps_its_value(self) -> None:
        model = compressed(mlp())
        layer, x = copy.deepcopy(model[0]), torch.randn(2, 16)
        assert_close(layer(x), model[0](x), "identical")

    def test_timm_ema_copies(self) -> None:
        model, x = compressed(Residual().eval()), torch.randn(2, 3, 5, 5)
        ema = ModelEmaV3(model, decay=0.5)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1)
        ema.update(model)
        expected = copy.deepcopy(model)
        with torch.no_grad():
            for parameter in expected.parameters():
                parameter.sub_(0.5)
        assert_close(tensors(ema.module.eval()(x)), tensors(expected(x)), "reordered")
        swa = torch.optim.swa_utils.AveragedModel(model)
        assert_close(swa(x), model(x), "identical")


class TestTwoForwards:
    def test_before_one_backward_both_get_gradients(self) -> None:
        model, a, b = compressed(mlp()), torch.randn(2, 16), torch.randn(2, 16)
        first, second = gradients(model, (a,)), gradients(model, (b,))
        model.zero_grad()
        (loss_of(model(a)) + loss_of(model(b))).backward()
        found = {name: parameter.grad for name, parameter in model.named_parameters()}
        assert_close(found, {name: first[name] + second[name] for name in first}, "reordered gradient")

    def test_before_two_backwards_through_one_graph(self) -> None:
        model, x = compressed(mlp()), torch.randn(2, 16)
        once = gradients(model, (x,))
        model.zero_grad()
        loss = loss_of(model(x))
        loss.backward(retain_graph=True)
        loss.backward()
        found = {name: parameter.grad for name, parameter in model.named_parameters()}
        assert_close(found, {name: 2 * once[name] for name in once}, "reordered gradient")

    def test_in_threads_with_and_without_gradients(self) -> None:
        model, x = compressed(mlp()), torch.randn(2, 16)
        expected, stop = model(x), threading.Event()

        def infer() -> None:
            with torch.no_grad():
                while not stop.is_set():
                    model(x)

        thread = threading.Thread(target=infer)
        thread.start()
        try:
            outputs = [model(x) for _ in range(200)]
        finally:
            stop.set()
            thread.join()
        for output in outputs:
            assert_close(output, expected, "identical")
            found = torch.autograd.grad(output.sum(), list(require_shared(model).parameters()))
            assert all(gradient.any() for gradient in found)

    def test_a_model_that_calls_itself(self) -> None:
        class Recursive(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layer = nn.Linear(8, 8)

            def forward(self, x: Tensor, depth: int = 2) -> Tensor:
                x = self.layer(x).tanh()
                return self.layer(self(x, depth - 1)) if depth else x

        model, x = compressed(Recursive()), torch.randn(2, 8)
        expected = gradients(shapeshift.materialize(copy.deepcopy(model)), (x,))
        found = gradients(model, (x,))
        assert_close(found["layer.bias"], expected["layer.bias"], "reordered gradient")


class TestFlatWeights:
    def test_of_recurrent_layers_survive_copies(self) -> None:
        model, x = compressed(Recurrent()), torch.randn(2, 4, 6)
        expected = model(x)
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), copy.deepcopy(model).double().float()):
            assert_close(twin(x), expected, "identical")
            assert_close(gradients(twin, (x,)), gradients(model, (x,)), "identical")
        shapeshift.materialize(model)
        for parameter, flat in zip(model.gru.parameters(), model.gru._flat_weights, strict=True):
            assert parameter is flat

    def test_of_recurrent_layers_follow_the_stores(self) -> None:
        model, x = compressed(Recurrent()), torch.randn(2, 4, 6)
        before = model(x)
        with torch.no_grad():
            require_shared(model)[next(iter(require_shared(model)))].store[0].mul_(2)
        assert not model(x).equal(before)


class TestTies:
    def test_a_tied_weight_is_generated_once(self, generations: list[int]) -> None:
        model = compressed(Language(tied=True), mapping="single")
        generations.clear()
        model(torch.randint(31, (2, 6)))
        assert sorted(generations) == sorted(set(generations))
        assert model.head.weight.equal(model.embedding.weight)
        with pytest.raises(shapeshift.ConfigError, match="matches no"):
            compressed(Language(), exclude=["tail"])

    def test_tie_weights_of_transformers_keeps_the_tie(self) -> None:
        model, tokens = compressed(tiny_gpt2()), torch.randint(48, (2, 8))
        expected = model(tokens).logits
        model.tie_weights()
        assert_close(model(tokens).logits, expected, "identical")
        shapeshift.materialize(model)
        assert model.lm_head.weight is model.transformer.wte.weight
        model.tie_weights()
        assert_close(model(tokens).logits, expected, "identical")

    def test_generation_of_text_equals_that_of_the_plain_model(self) -> None:
        model, tokens = compressed(tiny_gpt2()).eval(), torch.randint(3, 48, (2, 4))
        options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
        options["attention_mask"] = torch.ones_like(tokens)
        found = model.generate(tokens, **options)
        assert found.shape[1] > tokens.shape[1]
        assert found.equal(shapeshift.materialize(model).generate(tokens, **options))

    def test_resize_token_embeddings_is_refused_by_name(self) -> None:
        model = compressed(tiny_gpt2())
        with pytest.raises(GeneratedWeightError, match="Resize before"):
            model.resize_token_embeddings(60)
        shapeshift.materialize(model).resize_token_embeddings(60)
        assert model.get_input_embeddings().weight.shape == (60, 16)

    def test_save_pretrained_writes_what_load_state_dict_reads(self, tmp_path: Path) -> None:
        model, tokens = compressed(tiny_gpt2()), torch.randint(48, (2, 8))
        model.save_pretrained(tmp_path)
        other = compressed(tiny_gpt2())
        other.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=True)
        assert_close(other(tokens).logits, model(tokens).logits, "identical")

    def test_save_pretrained_after_materialize_is_plain(self, tmp_path: Path) -> None:
        model, tokens = compressed(tiny_gpt2()), torch.randint(48, (2, 8))
        expected = model(tokens).logits
        shapeshift.materialize(model).save_pretrained(tmp_path)
        assert_close(transformers.GPT2LMHeadModel.from_pretrained(tmp_path)(tokens).logits, expected, "identical")


class TestStateDict:
    @every_model
    def test_has_each_shared_tensor_once_and_safetensors_takes_it(self, name: str, tmp_path: Path) -> None:
        model = compressed(MODELS[name].build())
        parameters = list(model.named_parameters(remove_duplicate=False))
        ours = [(path, p) for path, p in parameters if path.startswith("shapeshift.")]
        assert len({id(parameter) for _, parameter in ours}) == len(ours)
        assert len([path for path, _ in parameters if "store" in path]) == len(require_shared(model).generators())
        own = {path: tensor for path, tensor in model.state_dict().items() if path.startswith("shapeshift.")}
        save_file(own, tmp_path / "own.safetensors")
        assert_close(load_file(tmp_path / "own.safetensors"), own, "identical")

    @every_model
    def test_has_no_parameter_without_dimensions(self, name: str) -> None:
        assert all(parameter.dim() >= 1 for parameter in compressed(MODELS[name].build()).parameters())

    def test_of_the_dense_model_is_refused_by_strict_loading(self) -> None:
        model = mlp()
        dense = model.state_dict()
        compressed(model)
        with pytest.raises(RuntimeError, match=r"Unexpected key.*0\.weight"):
            model.load_state_dict(dense)


class TestReading:
    def test_shape_dtype_and_device_do_not_generate(self, generations: list[int]) -> None:
        model = compressed(mlp())
        generations.clear()
        weight = model[0].weight
        assert weight.shape == weight.size() == (16, 16)
        assert (weight.dtype, weight.device.type) == (torch.float32, "cpu")
        assert weight.dim() == weight.ndim == 2
        assert weight.numel() == weight.nelement() == 256
        assert weight.requires_grad
        assert weight.is_floating_point()
        assert not weight.is_cuda
        assert len(weight) == 16
        assert isinstance(weight, Tensor)
        assert generations == []

    def test_a_forward_generates_every_weight_once(self, generations: list[int]) -> None:
        model = compressed(mlp(), mapping="single")
        generations.clear()
        model(torch.randn(2, 16))
        assert sorted(generations) == [0, 1, 2, 3]

    def test_a_submodule_alone_generates_its_own_weight_only(self, generations: list[int]) -> None:
        model, x = compressed(mlp(), mapping="single"), torch.randn(2, 16)
        plain = shapeshift.materialize(copy.deepcopy(model))
        generations.clear()
        assert_close(model[2](x), plain[2](x), "identical")
        assert generations == [1]

    @pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
    def test_a_submodule_in_every_gradient_mode(self, mode: Any) -> None:
        model, x = compressed(mlp()), torch.randn(2, 16)
        plain = shapeshift.materialize(copy.deepcopy(model))
        with mode():
            assert_close(model[2](x), plain[2](x), "identical")
            assert_close(model(x), plain(x), "identical")
            assert model[2](x).requires_grad == torch.is_grad_enabled()
        assert model[2](x).requires_grad

    def test_values_outside_of_a_forward_have_a_graph(self) -> None:
        model = compressed(mlp(), mapping="single")
        model[0].weight.square().sum().backward()
        assert require_shared(model)["all"].store[0].grad.any()
        assert model[0].weight.detach().clone().requires_grad is False
        assert_close(model[0].weight + 0, F.linear(torch.eye(16), model[0].weight).T.contiguous(), "identical")

    def test_wherever_a_tensor_goes(self) -> None:
        model = compressed(mlp())
        weight, value = model[0].weight, model[0].weight.detach().clone()
        assert_close(torch.tensor(weight.tolist()), value, "identical")
        assert_close(torch.from_numpy(weight.detach().numpy()), value, "identical")
        assert_close(torch.stack([weight, weight])[1], value, "identical")
        assert_close(weight[3, 2:5], value[3, 2:5], "identical")
        assert_close(weight.to(torch.float64), value.double(), "identical")
        assert_close(weight.half(), value.half(), "identical")
        assert_close(copy.deepcopy(weight.detach()) + 0, value, "identical")
        assert "tensor(" in repr(weight)
        assert f"{weight.sum().item():.3f}" == f"{value.sum().item():.3f}"


class TestWriting:
    @pytest.mark.parametrize(
        "write",
        [
            lambda layer: nn.init.zeros_(layer.weight),
            lambda layer: nn.init.kaiming_uniform_(layer.weight),
            lambda layer: nn.init.trunc_normal_(layer.weight),
            lambda layer: layer.weight.data.zero_(),
            lambda layer: layer.weight.data.copy_(torch.zeros(16, 16)),
            lambda layer: layer.weight.detach().mul_(2),
            lambda layer: layer.weight.mul_(2),
            lambda layer: layer.weight.__setitem__((0, 0), 1.0),
            lambda layer: setattr(layer.weight, "data", torch.zeros(16, 16)),
            lambda layer: setattr(layer.weight, "requires_grad", False),
            lambda layer: layer.weight.requires_grad_(False),
            lambda layer: setattr(layer.weight, "grad", None),
            lambda layer: layer.weight.register_hook(lambda gradient: gradient),
            lambda layer: setattr(layer, "weight", nn.Parameter(torch.zeros(16, 16))),
            lambda layer: setattr(layer, "weight", torch.zeros(16, 16)),
            lambda layer: layer.register_parameter("weight", nn.Parameter(torch.zeros(16, 16))),
            lambda layer: layer.reset_parameters(),
            lambda layer: torch.add(torch.zeros(16, 16), 1, out=layer.weight),
            lambda layer: torch._foreach_mul_([layer.weight], 2.0),
            lambda layer: layer.weight.set_(torch.zeros(16, 16)),
        ],
    )
    def test_a_generated_weight_is_refused_with_the_reason(self, write: Callable[[Any], Any]) -> None:
        model, x = compressed(mlp()), torch.randn(2, 16)
        expected = model(x)
        with torch.no_grad(), pytest.raises(GeneratedWeightError, match=r"0\.weight.*generated from shared"):
            write(model[0])
        assert_close(model(x), expected, "identical")

    def test_out_of_place_operations_are_allowed(self) -> None:
        weight = compressed(mlp())[0].weight
        assert (weight * 2).shape == weight.t().shape == (~(weight > 0)).shape == (16, 16)


class TestCompile:
    def test_inductor_fullgraph(self) -> None:
        self.check(mlp(depth=2), (torch.randn(2, 16),), "inductor")

    @pytest.mark.parametrize("name", ["residual", "convolutions", "language", "experts", "containers", "repeated"])
    def test_aot_eager_fullgraph(self, name: str) -> None:
        self.check(MODELS[name].build(), MODELS[name].inputs(), "aot_eager")

    def check(self, model: nn.Module, inputs: tuple[Any, ...], backend: str) -> None:
        torch.compiler.reset()
        compressed(model, mapping="single")
        expected_output, expected = model(*inputs), gradients(model, inputs)
        fast = torch.compile(model, fullgraph=True, backend=backend)
        assert_close(tensors(fast(*inputs)), tensors(expected_output), "compiled")
        found = {name.removeprefix("_orig_mod."): value for name, value in gradients(fast, inputs).items()}
        assert_close(found, expected, "compiled")
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(0.9)
        assert_close(tensors(fast(*inputs)), tensors(model(*inputs)), "compiled")

    # Compiling a module whose input is no leaf makes torch look at the input's gradient.
    @pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
    def test_of_a_submodule(self) -> None:
        torch.compiler.reset()
        model, x = compressed(Residual()), torch.randn(2, 3, 5, 5)
        expected = gradients(model, (x,))
        model.branches[0].compile(fullgraph=True, backend="aot_eager")
        assert_close(gradients(model, (x,)), expected, "compiled")


@pytest.mark.parametrize("name", ["mlp", "convolutions", "language", "experts"])
def test_export(name: str) -> None:
    model, inputs = compressed(MODELS[name].build()).eval(), MODELS[name].inputs()
    program = torch.export.export(model, inputs)
    assert_close(tensors(program.module()(*inputs)), tensors(model(*inputs)), "compiled")


@pytest.mark.parametrize("name", ["mlp", "convolutions", "language"])
def test_autocast(name: str) -> None:
    model, inputs = compressed(MODELS[name].build()), MODELS[name].inputs()
    plain = shapeshift.materialize(copy.deepcopy(model))
    with torch.autocast("cpu", torch.bfloat16):
        output, expected = model(*inputs), plain(*inputs)
    assert_close(tensors(output), tensors(expected), "identical")
    loss_of(output).backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert parameter.grad.dtype == parameter.dtype
        assert parameter.grad.isfinite().all()


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("upsample", ["tile", "interpolate"])
def test_bfloat16(when: str, upsample: str) -> None:
    model = mlp()
    if when == "before":
        model.bfloat16()
    compressed(model, upsample=upsample, mapping="single")
    if when == "after":
        model.bfloat16()
    x = torch.randn(2, 16, dtype=torch.bfloat16)
    assert model[0].weight.dtype == torch.bfloat16
    assert all(gradient.isfinite().all() for gradient in gradients(model, (x,)).values())
    expected = model(x)
    assert expected.dtype == torch.bfloat16
    shapeshift.materialize(model)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert_close(model(x), expected, "identical")


class TestMetaDevice:
    def test_compress_allocates_no_dense_weight(self) -> None:
        with torch.device("meta"):
            model = nn.Sequential(*(nn.Linear(2**18, 2**18) for _ in range(4)))  # 1 TiB
            compressed(model, 2_000_000)
        assert all(tensor.is_meta for tensor in [*model.parameters(), *require_shared(model).buffers()])
        assert 0.99 * 2_000_000 <= shapeshift.count_parameters(model) <= 2_000_000

    @pytest.mark.parametrize("budget", [0.4, 2.0])
    @pytest.mark.parametrize("name", ["mlp", "convolutions", "language", "recurrent"])
    def test_to_empty_and_reset_parameters_start_like_a_model_made_on_the_cpu(self, name: str, budget: float) -> None:
        with torch.device("meta"):
            model = MODELS[name].build()
        compressed(model, budget, seed=1)
        model.to_empty(device="cpu")
        for module in model.modules():
            if module is not model.shapeshift and not shapeshift.surgery.layers.is_attached(module):
                reset = getattr(module, "reset_parameters", lambda: None)
                reset()
        with torch.no_grad():
            for path, parameter in model.named_parameters():
                if not path.startswith("shapeshift."):
                    parameter.fill_(0.5)
        model.shapeshift.reset_parameters()
        for group in require_shared(model).generators():
            for weight, value in zip(group.weights, group.generate(range(len(group.weights))), strict=True):
                assert_close(value.std(correction=0).item(), weight.std, "starting deviation")
        output = model(*MODELS[name].inputs())
        assert all(tensor.isfinite().all() for tensor in tensors(output))


class TestFunctionalTransforms:
    def test_functional_call_with_the_shared_parameters(self) -> None:
        model, other, x = compressed(mlp()), compressed(mlp()), torch.randn(2, 16)
        expected, before = other(x), model(x)
        state = {**dict(other.named_parameters()), **dict(other.named_buffers())}
        assert_close(functional_call(model, state, (x,)), expected, "identical")
        assert_close(model(x), before, "identical")

    def test_grad_and_vmap(self) -> None:
        model, x = compressed(mlp()), torch.randn(3, 16)
        parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}

        def loss(parameters: dict[str, Tensor], sample: Tensor) -> Tensor:
            return loss_of(functional_call(model, parameters, (sample[None],)))

        per_sample = vmap(grad(loss), (None, 0))(parameters, x)
        for index in range(3):
            expected = gradients(model, (x[index : index + 1],))
            assert_close({name: found[index] for name, found in per_sample.items()}, expected, "reordered gradient")

    def test_grad_of_a_submodule(self) -> None:
        model, x = compressed(mlp()), torch.randn(2, 16)
        plain = shapeshift.materialize(copy.deepcopy(model))
        found = grad(lambda x: model[2](x).square().sum())(x)
        assert_close(found, grad(lambda x: plain[2](x).square().sum())(x), "reordered gradient")

    def test_vmap_over_an_ensemble(self) -> None:
        models, x = [compressed(mlp(), seed=seed) for seed in range(3)], torch.randn(2, 16)
        parameters, buffers = torch.func.stack_module_state(models)
        outputs = vmap(lambda p, b: functional_call(models[0], (p, b), (x,)))(parameters, buffers)
        assert_close(outputs, torch.stack([model(x) for model in models]), "reordered")


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


@pytest.mark.parametrize("compress", [False, True])
def test_a_step_between_forward_and_backward_raises_as_in_the_dense_model(compress: bool) -> None:
    model, x = mlp(), torch.randn(2, 16)
    if compress:
        compressed(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(x).sum().backward()
    output = model(x).sum()
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.backward()


@pytest.mark.parametrize("upsample", ["tile", "interpolate"])
def test_freezing_parts_of_a_compressed_model(upsample: str) -> None:
    model, x = compressed(Convolutions(), 0.5, upsample=upsample), torch.randn(2, 4, 4)
    everything = gradients(model, (x,))
    shared = require_shared(model)
    for path, parameter in shared.named_parameters():
        if path.endswith("coefficients"):
            parameter.requires_grad_(False)
    found = gradients(model, (x,))
    assert not any(path.endswith("coefficients") for path in found)
    assert_close(found, {path: everything[path] for path in found}, "identical")
    shared.requires_grad_(False)
    found = gradients(model, (x,))
    assert not any(path.startswith("shapeshift.") for path in found)
    assert_close(found, {path: everything[path] for path in found}, "identical")
    assert model.conv1.weight.requires_grad is False


def test_freezing_the_stores_leaves_the_coefficients_training() -> None:
    model, x = compressed(mlp(), 0.8, mapping="single"), torch.randn(2, 16)
    everything = gradients(model, (x,))
    group = require_shared(model)["all"]
    group.store[0].requires_grad_(False)
    found = gradients(model, (x,))
    assert "shapeshift.all.coefficients" in found
    assert_close(found, {path: everything[path] for path in found}, "identical")
    group.zero_grad()
    model[0](x).square().sum().backward()
    assert group.coefficients.grad.any(), "a layer called by itself reaches the coefficients too"


def test_materialize_keeps_frozen_what_was_frozen() -> None:
    model = compressed(mlp(), 0.8)
    require_shared(model).requires_grad_(False)
    model[0].bias.requires_grad_(False)
    shapeshift.materialize(model)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {"2.bias", "4.bias", "6.bias"}
