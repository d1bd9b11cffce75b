"""How a layer reads a generated weight: a subclass of the layer's class in which the weight is a property."""

from __future__ import annotations

import contextlib
import functools
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from shapeshift.errors import GeneratedWeightError, ModelError
from shapeshift.running.modes import is_eager
from shapeshift.surgery.adapters import ADAPTERS
from shapeshift.surgery.attached import (
    FORMS,
    ORDER,
    SOURCES,
    is_attached,
    original_class,
    set_class,
    weight_sources,
)
from shapeshift.surgery.forward_pass import WeightSource
from shapeshift.surgery.lazy_weight import LazyWeight
from shapeshift.surgery.model_methods import MODEL_METHODS
from shapeshift.surgery.own_parameters import OwnParameters, refuse_generated
from shapeshift.surgery.parameter_form import ParameterForm
from shapeshift.surgery.parts import part_members
from shapeshift.surgery.saved_weights import SavedWeights
from shapeshift.surgery.shared_parameters import ATTRIBUTE, SharedParameters
from shapeshift.surgery.traced_pass import find_tracer


def attach(module: nn.Module, sources: dict[str, tuple[WeightSource, int]], root: bool) -> None:
    """Let a module read some of its parameters from sources of generated weights.

    Args:
        module: The module. Its class becomes a subclass of the present one.
        sources: For each parameter's name its source and its index there.
        root: Whether the module's forward is a pass, in which the sources generate weights.
    """
    module.__dict__[SOURCES] = sources
    module.__dict__[ORDER] = tuple(module._parameters)
    module.__dict__[FORMS] = forms = {}
    for name, (source, index) in sources.items():
        parameter = module._parameters[name]
        assert parameter is not None
        forms[name] = ParameterForm.of(parameter)
        if parameter._backward_hooks:
            source.hooks[index] = parameter._backward_hooks
    own = {name: parameter for name, parameter in module._parameters.items() if name not in sources}
    module.__dict__["_parameters"] = OwnParameters(own, sources)
    if isinstance(module, nn.RNNBase):
        del module.__dict__["_flat_weights"]
    set_class(module, generated_class(type(module), tuple(sources), root))  # type: ignore[arg-type]


def make_part(module: nn.Module) -> None:
    """Let a plain module inside a compressed model list the shared parameters that serve nothing outside of it."""
    if is_parametrized(module):  # torch copies such a module in a way of its own
        return
    with contextlib.suppress(TypeError):  # a class that does not let others derive from it
        set_class(module, generated_class(type(module), (), root=False))  # type: ignore[arg-type]


def check_detachable(module: nn.Module, path: str) -> None:
    """Raise if an attached module's class was replaced since, as a parametrization does.

    Raises:
        ModelError: if so.
    """
    if "_rebuild" not in vars(type(module)):
        raise ModelError(
            f"{path or 'the model'} became a {type(module).__name__} after it was compressed, by a parametrization or "
            "the like, which would be lost: take it off first, or put it on before shapeshift.compress(model, ...)"
        )


def detach(module: nn.Module, weights: dict[str, nn.Parameter]) -> None:
    """Undo :func:`attach`: restore a module's class, and its parameters in their original order."""
    set_class(module, original_class(module))
    order = module.__dict__.pop(ORDER)
    del module.__dict__[SOURCES], module.__dict__[FORMS]
    parameters = {**module._parameters, **weights}
    module.__dict__["_parameters"] = {
        name: parameters[name] for name in dict.fromkeys((*order, *parameters)) if name in parameters
    }
    if isinstance(module, nn.RNNBase):
        module._flat_weights = [getattr(module, name) for name in module._flat_weights_names]
        module.flatten_parameters()


def check_attachable(model: nn.Module) -> None:
    """Raise if the class of a module in a model cannot be subclassed in place.

    Raises:
        ModelError: for scripted modules, and for modules that are already compressed.
    """
    for path, module in model.named_modules():
        where = f"{path or 'the model'} ({type(module).__name__})"
        if is_attached(module):
            raise ModelError(f"{where} is compressed already; call shapeshift.materialize on the whole model first")
        if type(module).__module__.startswith("torch.jit"):
            raise ModelError(f"{where} is a scripted module, whose code is fixed; compress what it was scripted from")


@functools.cache
def generated_class(base: type[nn.Module], names: tuple[str, ...], root: bool) -> type[nn.Module]:
    """Return the subclass of a module class that reads the named parameters from groups; one per set of names."""
    members: dict[str, Any] = {name: _weight_property(name) for name in names}
    # Others look a model up by its class's name and module, transformers among them; compilers know torch's own.
    reads = bool(names) or root
    members["__module__"] = __name__ if reads and base.__module__.startswith("torch.") else base.__module__
    # `type(model)(...)` is for a new model, which is a plain one.
    members["__new__"] = lambda cls, *args, **kwargs: base(*args, **kwargs)
    members["register_parameter"] = _register_parameter
    members["__reduce_ex__"] = _reduce_ex
    members["_replicate_for_data_parallel"] = _refuse_replication
    members["__prepare_scriptable__"] = _refuse_scripting
    members["_rebuild"] = (base, names, root)
    for adapted, adapt in ADAPTERS.items():
        if issubclass(base, adapted):
            members |= adapt(base, root)
    if issubclass(base, nn.Sequential | nn.ModuleList):
        members["__getitem__"] = _part_by_slice(members.get("__getitem__", base.__getitem__))
    if not root:
        members |= part_members(base)
    if root:
        members["forward"] = _generating(base.forward)
        members["named_children"] = _named_children(base)
        members["no_weight_decay"] = _no_weight_decay
        members |= {name: adapt(base) for name, adapt in MODEL_METHODS.items() if hasattr(base, name)}
    return types.new_class(base.__name__, (base,), exec_body=lambda namespace: namespace.update(members))


def _weight_property(name: str) -> property:
    def read(self: nn.Module) -> Tensor:
        source, index = weight_sources(self)[name]
        if isinstance(self, nn.Embedding | nn.EmbeddingBag) and self.max_norm is not None:
            # It scales the rows that it looks up, in place: in values of its own, which a lazy weight always gives.
            return source.read_lazily(index)
        try:
            return source.read(index)
        except AttributeError as error:  # python would say that the layer has no weight
            raise RuntimeError(f"{source.weights[index].name} cannot be generated: {error}") from error

    def write(self: nn.Module, value: Any) -> None:
        source, index = weight_sources(self)[name]
        if not (isinstance(value, LazyWeight) and value.is_made_by(source.generator, index)):  # written to itself
            _refuse(self, name)

    def delete(self: nn.Module) -> None:
        _refuse(self, name)

    return property(read, write, delete, doc=f"The generated {name}.")


def _refuse(module: nn.Module, name: str) -> None:
    source, index = weight_sources(module)[name]
    weight = source.weights[index]
    raise GeneratedWeightError(
        f"{weight.name} {weight.shape} is generated from shared parameters and cannot be assigned or deleted. "
        "Call shapeshift.materialize(model) first, or keep it out with exclude="
    )


def _register_parameter(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
    if name in self.__dict__.get(SOURCES, ()):
        _refuse(self, name)
    refuse_generated(param)
    original_class(self).register_parameter(self, name, param)


def _reduce_ex(self: nn.Module, protocol: Any) -> tuple[Any, ...]:
    # The class is made at run time, so pickle cannot find it by name: remake it from what it was made of.
    reduced: Any = original_class(self).__reduce_ex__(self, max(2, protocol))
    return _new, type(self)._rebuild, *reduced[2:]  # type: ignore[attr-defined]


def _new(base: type[nn.Module], names: tuple[str, ...], root: bool) -> nn.Module:
    module: nn.Module = object.__new__(generated_class(base, names, root))  # type: ignore[arg-type]
    return module


def _refuse_replication(self: nn.Module) -> nn.Module:
    raise ModelError(
        f"nn.DataParallel copies {type(self).__name__} to each device, and not the shared parameters that it reads: "
        "use torch.nn.parallel.DistributedDataParallel"
    )


def _refuse_scripting(self: nn.Module) -> nn.Module:
    raise ModelError(
        f"torch.jit.script compiles the code of {type(self).__name__}, and not what generates its weights: script a "
        "copy after shapeshift.materialize, or take torch.export.export or torch.jit.trace"
    )


def _is_watched(model: nn.Module) -> bool:
    """Return whether a forward pass that starts now is one of training, outside of compilers and tracers."""
    return model.training and torch.is_grad_enabled() and is_eager()


def _generating(forward: Callable[..., Any]) -> Callable[..., Any]:
    attribute, tracer_of, is_watched = ATTRIBUTE, find_tracer, _is_watched  # no globals: see below
    start_saving = SavedWeights.start

    def generate_and_forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        shared: SharedParameters | None = self._modules.get(attribute)  # type: ignore[assignment]
        if shared is None:  # a bound method that outlives shapeshift.materialize, as wrappers keep it
            return forward(self, *args, **kwargs)
        tracer = tracer_of(args, kwargs)
        if is_watched(self):
            shared.watch(self)
        saved = start_saving() if shared.recompute and tracer is None else None
        try:
            for source in shared.sources:
                source.begin(tracer, shared.recompute, saved)
            if saved is None:
                outputs = forward(self, *args, **kwargs)
            else:
                with saved.hooks():
                    outputs = forward(self, *args, **kwargs)
            for source in shared.sources:
                source.check_unwritten()
            return outputs
        finally:
            for source in shared.sources:
                source.end()

    # torch.compile caches its results, and its failures, by code object: give each class one of its own. torch.fx
    # looks for the functions that it does not trace into among the globals of a forward: give it those of the model.
    code = generate_and_forward.__code__.replace()
    wrapper = types.FunctionType(
        code, getattr(forward, "__globals__", globals()), closure=generate_and_forward.__closure__
    )
    return functools.wraps(forward)(wrapper)


def _part_by_slice(item: Callable[..., Any]) -> Callable[..., Any]:
    """A slice of a container is a part as well: `model.layers[:6].requires_grad_(False)`."""

    @functools.wraps(item)
    def getitem(self: nn.Module, index: Any) -> Any:
        found = item(self, index)
        if isinstance(index, slice) and is_eager():
            make_part(found)
        return found

    return getitem


def _named_children(base: Any) -> Callable[..., Any]:
    """While the model runs, list its own children only: some models call whatever they list."""

    def named_children(self: nn.Module) -> Iterator[tuple[str, nn.Module]]:
        shared: SharedParameters | None = self._modules.get(ATTRIBUTE)  # type: ignore[assignment]
        running = shared is not None and any(source.is_running for source in shared.sources)
        return ((name, child) for name, child in base.named_children(self) if not running or child is not shared)

    return named_children


def _no_weight_decay(self: nn.Module) -> set[str]:
    """Return the names of parameters that weight decay is not meant for: timm and others ask a model for them."""
    inherited: set[str] = getattr(original_class(self), "no_weight_decay", lambda _: set())(self)
    shared: SharedParameters = getattr(self, ATTRIBUTE)
    coefficients = {found for generator in shared.generators() for found in generator.coefficient_parameters()}
    named = shared.named_parameters(prefix=ATTRIBUTE)
    return {*inherited, *(name for name, parameter in named if parameter in coefficients)}
