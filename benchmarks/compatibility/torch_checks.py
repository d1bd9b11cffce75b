"""Operations of torch."""

from __future__ import annotations

import copy
import io
import pickle
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub import PyTorchModelHubMixin
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from torch.ao.pruning.sparsifier.weight_norm_sparsifier import WeightNormSparsifier
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jvp, vjp, vmap
from torch.nn.utils import parametrizations, prune
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint

import shapeshift
from benchmarks.compatibility.check import (
    Network,
    PlainFailsError,
    SaidByOthersError,
    check,
    common,
    equal,
    images,
    pair,
    squared,
)

FUNC, COMPILE, TRAIN, COPY, CHANGE = (
    "torch.func and autograd",
    "compilers and tracers",
    "training",
    "copies and files",
    "changes of layers",
)


def _gradients(model: nn.Module, loss: Tensor) -> list[Tensor]:
    """Return the gradients of the parameters that a compressed model and its plain copy have in common."""
    return list(torch.autograd.grad(loss, list(common(model).values())))


@check(FUNC, "backward")
def _backward() -> None:
    compressed, plain = pair()
    x = images()
    equal(_gradients(compressed, squared(compressed, x)), _gradients(plain, squared(plain, x)))


@check(FUNC, "double backward")
def _double_backward() -> None:
    compressed, plain = pair()
    x = images().requires_grad_()
    found = []
    for model in (compressed, plain):
        (first,) = torch.autograd.grad(squared(model, x), x, create_graph=True)
        found.append(_gradients(model, first.square().sum()))
    equal(*found)


def _transformed(transform: Callable[[Callable[[dict[str, Tensor]], Tensor], dict[str, Tensor]], Any]) -> None:
    compressed, plain = pair()
    x = images()
    found = []
    for model in (compressed.eval(), plain.eval()):

        def loss(parameters: dict[str, Tensor], model: nn.Module = model) -> Tensor:
            found: Tensor = functional_call(model, parameters, (x,)).square().mean()
            return found

        found.append(transform(loss, dict(common(model))))
    equal(*found)


@check(FUNC, "torch.func.grad")
def _grad() -> None:
    _transformed(lambda loss, parameters: grad(loss)(parameters))


@check(FUNC, "torch.func.vjp")
def _vjp() -> None:
    _transformed(lambda loss, parameters: vjp(loss, parameters)[1](torch.tensor(1.0))[0])


@check(FUNC, "torch.func.jvp")
def _jvp() -> None:
    _transformed(lambda loss, parameters: jvp(loss, (parameters,), (parameters,))[1])


@check(FUNC, "torch.func.vmap over examples")
def _vmap() -> None:
    compressed, plain = pair()
    x = images()
    found = []
    for model in (compressed.eval(), plain.eval()):

        def one(image: Tensor, model: nn.Module = model) -> Tensor:
            output: Tensor = model(image[None])[0]
            return output

        found.append(vmap(one)(x))
    equal(*found)


@check(FUNC, "forward-mode derivatives with dual numbers")
def _dual() -> None:
    compressed, plain = pair()
    x, tangent = images(), images()
    found = []
    for model in (compressed.eval(), plain.eval()):
        with forward_ad.dual_level():
            found.append(forward_ad.unpack_dual(model(forward_ad.make_dual(x, tangent))).tangent)
    equal(*found)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x @ weight.t()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        return gradient @ weight, gradient.t() @ x


@check(FUNC, "a custom autograd.Function on layer.weight")
def _custom_function() -> None:
    compressed, _ = pair()
    x = torch.randn(4, 16)
    parameters = [p for name, p in compressed.named_parameters() if ".store." in name]
    one, other = (_Linear.apply, lambda x, weight: F.linear(x, weight))  # type: ignore[no-untyped-call]
    found = [
        torch.autograd.grad(function(x, compressed.hidden.weight).square().sum(), parameters)
        for function in (one, other)
    ]
    equal(*found)


@check(FUNC, "torch.autograd.grad with respect to a layer's weight")
def _weight_gradient() -> None:
    compressed, plain = pair()
    x = torch.randn(4, 16)
    found = []
    for model in (compressed, plain):
        weight = model.hidden.weight
        found.append(torch.autograd.grad(F.linear(x, weight).square().sum(), weight))
    equal(*found)


@check(COMPILE, "torch.compile (aot_eager, full graph)")
def _compile() -> None:
    compressed, plain = pair()
    x = images()
    found = []
    for model in (compressed, plain):
        torch._dynamo.reset()
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        found.append(_gradients(model, squared(compiled, x)))
    torch._dynamo.reset()
    equal(*found)


@check(COMPILE, "torch.export")
def _export() -> None:
    compressed, plain = pair()
    x = images()
    exported = torch.export.export(compressed.eval(), (x,)).module()
    equal(exported(x), plain.eval()(x))


@check(COMPILE, "torch.export, saved to a file")
def _export_to_a_file() -> None:
    compressed, plain = pair()
    x, file = images(), io.BytesIO()
    torch.export.save(torch.export.export(compressed.eval(), (x,)), file)
    file.seek(0)
    equal(torch.export.load(file).module()(x), plain.eval()(x))


@check(COMPILE, "torch.onnx.export (dynamo)")
def _onnx() -> None:
    compressed, plain = pair()
    x = images()
    try:
        torch.onnx.export(plain.eval(), (x,), dynamo=True)
    except Exception as error:
        raise PlainFailsError(str(error)) from None
    program: Any = torch.onnx.export(compressed.eval(), (x,), dynamo=True)
    equal(program.exported_program.module()(x), plain(x))


@check(COMPILE, "torch.jit.trace, saved to a file")
def _trace_to_a_file() -> None:
    compressed, plain = pair()
    x, file = images(), io.BytesIO()
    torch.jit.save(torch.jit.trace(compressed.eval(), (x,)), file)
    file.seek(0)
    equal(torch.jit.load(file)(x), plain.eval()(x))


@check(COMPILE, "torch.jit.trace")
def _trace() -> None:
    compressed, plain = pair()
    x = images()
    equal(torch.jit.trace(compressed.eval(), (x,))(x), plain.eval()(x))


@check(COMPILE, "torch.jit.script")
def _script() -> None:
    compressed, plain = pair()
    x = images()
    equal(torch.jit.script(compressed.eval())(x), plain.eval()(x))


@check(COMPILE, "torch.fx.symbolic_trace")
def _fx() -> None:
    compressed, plain = pair()
    x = images()
    traced = torch.fx.symbolic_trace(compressed)
    equal(_gradients(traced, squared(traced, x)), _gradients(plain, squared(plain, x)))


@check(TRAIN, "autocast to bfloat16")
def _autocast() -> None:
    compressed, plain = pair()
    x = images()
    with torch.autocast("cpu", torch.bfloat16):
        found = [model.eval()(x) for model in (compressed, plain)]
    equal(*found)


@check(TRAIN, "GradScaler")
def _scaler() -> None:
    compressed, plain = pair()
    x = images()
    for model in (compressed, plain):
        optimizer = torch.optim.SGD(common(model).values(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu")
        scaler.scale(squared(model, x)).backward()
        scaler.step(optimizer)
        scaler.update()
    equal(common(compressed), common(plain))


def _checkpointed(use_reentrant: bool) -> None:
    compressed, plain = pair()
    x = images().requires_grad_()
    found = []
    for model in (compressed, plain):
        body = model.body.forward
        model.body.forward = partial(checkpoint, body, use_reentrant=use_reentrant)  # type: ignore[method-assign]
        squared(model, x).backward()
        found.append([parameter.grad for parameter in common(model).values()])
    equal(*found)


@check(TRAIN, "gradient checkpointing")
def _checkpointing() -> None:
    _checkpointed(use_reentrant=False)


@check(TRAIN, "gradient checkpointing, reentrant")
def _reentrant() -> None:
    _checkpointed(use_reentrant=True)


@check(TRAIN, "inference_mode")
def _inference() -> None:
    compressed, plain = pair()
    x = images()
    with torch.inference_mode():
        equal(compressed.eval()(x), plain.eval()(x))


@check(TRAIN, "clip_grad_norm_")
def _clipping() -> None:
    compressed, _ = pair()
    squared(compressed, images()).backward()
    nn.utils.clip_grad_norm_(compressed.parameters(), 1e-3)
    norms = torch.stack([p.grad.norm() for p in compressed.parameters() if p.grad is not None])
    equal(norms.norm(), torch.tensor(1e-3))


@check(TRAIN, "an average of weights (swa_utils.AveragedModel)")
def _average() -> None:
    compressed, _ = pair()
    average = AveragedModel(compressed)
    average.update_parameters(compressed)
    with torch.no_grad():
        for parameter in compressed.parameters():
            parameter.mul_(3.0)
    average.update_parameters(compressed)
    store = next(parameter for name, parameter in compressed.named_parameters() if ".store." in name)
    averaged = next(parameter for name, parameter in average.named_parameters() if ".store." in name)
    equal(averaged, store * 2 / 3)
    equal(average.eval()(images()).isfinite().all(), torch.tensor(True))


@check(TRAIN, "an optimizer with a group for each child of a model whose parts have groups of their own")
def _groups_by_child() -> None:
    compressed, plain = pair(mapping={"body": "body", "*": "rest"})
    torch.optim.SGD([{"params": child.parameters()} for child in plain.children()])
    try:
        torch.optim.SGD([{"params": child.parameters()} for child in compressed.children()])
    except ValueError as error:
        named = [child for name, child in compressed.named_children() if name != "shapeshift"]
        torch.optim.SGD([{"params": child.parameters()} for child in named])
        raise SaidByOthersError(f"{error}: leave out the child model.shapeshift, whose groups the parts list") from None


@check(TRAIN, "nn.DataParallel")
def _data_parallel() -> None:
    compressed, plain = pair()
    x = images()
    replica = compressed._replicate_for_data_parallel()  # type: ignore[no-untyped-call]
    equal(replica.eval()(x), plain.eval()(x))


@check(COPY, "copy.deepcopy")
def _deepcopy() -> None:
    compressed, plain = pair()
    x = images()
    equal(copy.deepcopy(compressed)(x), plain(x))


@check(COPY, "pickle")
def _pickle() -> None:
    compressed, plain = pair()
    x = images()
    equal(pickle.loads(pickle.dumps(compressed))(x), plain(x))


@check(COPY, "torch.save of the whole model")
def _save_whole() -> None:
    compressed, plain = pair()
    x, file = images(), io.BytesIO()
    torch.save(compressed, file)
    file.seek(0)
    equal(torch.load(file, weights_only=False)(x), plain(x))


@check(COPY, "state_dict and load_state_dict")
def _state_dict() -> None:
    compressed, plain = pair()
    x = images()
    other = shapeshift.compress(Network(), "40%", seed=1)
    other.load_state_dict(compressed.state_dict())
    equal(other(x), plain(x))


@check(COPY, "a state dict that was built anew from its items")
def _rebuilt_state() -> None:
    compressed, plain = pair()
    x = images()
    other = shapeshift.compress(Network(), "40%", seed=1)
    other.load_state_dict(dict(compressed.state_dict().items()))
    equal(other(x), plain(x))


@check(COPY, "the same, into a model that shares in another way")
def _rebuilt_state_of_another_sharing() -> None:
    one, other = (
        shapeshift.compress(nn.ModuleDict({name: nn.Linear(16, 16) for name in names}), "60%", seed=0)
        for names in ("ab", "ba")
    )
    other.load_state_dict(dict(one.state_dict().items()))
    x = torch.randn(2, 16)
    equal(other["a"](x), one["a"](x))


class _Hub(nn.Module, PyTorchModelHubMixin):
    def __init__(self) -> None:
        super().__init__()
        self.network, self.head = Network(), nn.Linear(10, 2)


@check(COPY, "save_pretrained of huggingface_hub's mixin, where a part is compressed")
def _hub() -> None:
    model = _Hub()
    shapeshift.compress(model.network, "40%")
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)


@check(COPY, "safetensors.torch.save_model")
def _safetensors() -> None:
    compressed, plain = pair()
    x = images()
    other = shapeshift.compress(Network(), "40%", seed=1)
    with tempfile.TemporaryDirectory() as folder:
        save_model(compressed, str(Path(folder, "model.safetensors")))
        load_model(other, str(Path(folder, "model.safetensors")))
    equal(other(x), plain(x))


@check(CHANGE, "freezing all parameters")
def _freeze() -> None:
    compressed, _ = pair()
    compressed.requires_grad_(False)
    assert not compressed(images()).requires_grad


@check(CHANGE, "half precision by model.bfloat16()")
def _half() -> None:
    compressed, plain = pair()
    x = images().bfloat16()
    torch.testing.assert_close(compressed.bfloat16().eval()(x), plain.bfloat16().eval()(x), rtol=0.05, atol=0.05)


@check(CHANGE, "channels_last")
def _channels_last() -> None:
    compressed, plain = pair()
    x = images().to(memory_format=torch.channels_last)
    found = []
    for model in (compressed, plain):
        output = model.to(memory_format=torch.channels_last).stem(x)
        assert output.is_contiguous(memory_format=torch.channels_last)
        found.append([output, *_gradients(model, squared(model, x))])
    equal(*found)


def _pruned(prune_layers: Callable[[Network], Any]) -> None:
    compressed, plain = pair()
    for model in (plain, compressed):
        torch.manual_seed(1)
        prune_layers(model)
    x = images()
    equal(compressed.eval()(x), plain.eval()(x))


@check(CHANGE, "torch.nn.utils.prune of a layer")
def _prune() -> None:
    _pruned(lambda model: prune.l1_unstructured(model.hidden, "weight", amount=0.5))  # type: ignore[no-untyped-call]


@check(CHANGE, "torch.nn.utils.prune of all layers")
def _prune_all() -> None:
    layers = ("stem", "hidden", "head")
    _pruned(
        lambda model: prune.global_unstructured(  # type: ignore[no-untyped-call]
            [(model.get_submodule(name), "weight") for name in layers], prune.L1Unstructured, amount=0.5
        )
    )


@check(CHANGE, "a sparsifier of torch.ao")
def _sparsifier() -> None:
    _pruned(lambda model: WeightNormSparsifier().prepare(model, [{"tensor_fqn": "hidden.weight"}]))


@check(CHANGE, "a sparsifier of torch.ao that looks for the layers itself")
def _sparsifier_by_type() -> None:
    _pruned(lambda model: WeightNormSparsifier().prepare(model, None))


def _parametrized(register: Callable[[nn.Module], Any]) -> None:
    compressed, plain = pair()
    for model in (compressed, plain):
        torch.manual_seed(1)
        register(model.hidden)
    x = images()
    equal(compressed.eval()(x), plain.eval()(x))


@check(CHANGE, "parametrizations.weight_norm")
def _weight_norm() -> None:
    _parametrized(parametrizations.weight_norm)


@check(CHANGE, "parametrizations.spectral_norm")
def _spectral_norm() -> None:
    _parametrized(lambda layer: parametrizations.spectral_norm(layer, n_power_iterations=10))


@check(CHANGE, "quantize_dynamic")
def _quantize() -> None:
    compressed, plain = pair()
    kinds = []
    for model in (compressed, plain):
        quantized = torch.ao.quantization.quantize_dynamic(model.eval(), {nn.Linear}, dtype=torch.qint8)
        kinds.append(type(quantized.hidden).__module__)
    assert kinds[0] == kinds[1]
