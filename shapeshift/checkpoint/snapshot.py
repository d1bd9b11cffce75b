"""The state of a compressed or pruned model at one moment, as a checkpoint stores it."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from shapeshift.config import Config
from shapeshift.errors import ModelError
from shapeshift.plan import Plan, with_weights
from shapeshift.prune.record import find_pruned, record_of
from shapeshift.running.modes import is_sharded
from shapeshift.store_format import STORE_FORMATS, StoreFormat
from shapeshift.surgery.attached import generated_names, is_attached, is_generated, original_class
from shapeshift.surgery.roots import find_root, require_root, require_shared
from shapeshift.surgery.shared_parameters import ATTRIBUTE, SharedParameters


@dataclass(frozen=True)
class Snapshot:
    """A compressed or pruned model at one moment.

    ``shapeshift.save``, ``save_pretrained`` and Lightning's callback take their content from it.

    Attributes:
        root: the root of the compressed model, or the pruned one.
        tensors: the tensors that a checkpoint stores, by name.
        formats: how its checkpoint keeps some of the tensors, by name.
        description: all that gives them meaning, as a dict that JSON can hold: the plan, the record of pruning, and
            which names are aliases of others, frozen or not persistent.
    """

    root: nn.Module
    tensors: Mapping[str, Tensor]
    formats: Mapping[str, StoreFormat]
    description: Mapping[str, Any]

    @classmethod
    def of(cls, model: nn.Module) -> Snapshot:
        """Take the snapshot of the compressed or pruned model in a module.

        Raises:
            ModelError: if there is none or several, a module keeps extra state that is not a tensor, or a layer was
                replaced since the model was compressed.
        """
        root = find_saved_root(model)
        root = require_root(model) if root is None else root
        if is_attached(root):
            _check_plan(root)
        shared = require_shared(root) if is_attached(root) else None
        tensors, aliases = stored_tensors(root)
        return cls._of(root, shared, tensors, aliases, set(root.state_dict(keep_vars=True)))

    @classmethod
    def planned(cls, plan: Plan, model: nn.Module) -> Snapshot:
        """Take the snapshot that a plain model will have once it is compressed by a plan; only its shapes matter.

        Raises:
            ModelError: as :meth:`of`.
        """
        on_meta = tuple(with_weights(group, device=torch.device("meta")) for group in plan.groups)
        errors = {weight.name: 0.0 for weight in plan.weights} if plan.config.init == "fit" else {}
        shared = SharedParameters(dataclasses.replace(plan, groups=on_meta), fit_errors=errors)
        own = model.state_dict(keep_vars=True)
        added = {f"{ATTRIBUTE}.{name}": tensor for name, tensor in shared.state_dict(keep_vars=True).items()}
        generated = {name for weight in plan.weights for name in weight.names}
        named = {**dict(model.named_buffers(remove_duplicate=False)), **own, **added}
        tensors, aliases = _stored({name: tensor for name, tensor in named.items() if name not in generated})
        return cls._of(model, shared, tensors, aliases, {*own, *added})

    def in_formats(self, store: str | None, rest: str | None) -> Snapshot:
        """Return the snapshot with other options ``store`` and ``rest`` of a compressed model; None keeps one.

        Raises:
            ConfigError: if one is unknown.
        """
        shared = require_shared(self.root)
        own = shared.plan.config
        config = dataclasses.replace(own, store=store or own.store, rest=rest or own.rest)
        plan = {**self.description["plan"], "config": config.to_dict()}
        formats = _formats(shared, self.tensors, config)
        return dataclasses.replace(self, formats=formats, description={**self.description, "plan": plan})

    def without_base(self) -> Snapshot:
        """Return the snapshot without frozen parameters, which a freshly built model has, and describe them instead.

        Raises:
            ModelError: if no parameter is trainable.
        """
        if not any(parameter.requires_grad for parameter in self.root.parameters()):
            raise ModelError(
                f"no parameter of {original_class(self.root).__name__} is trainable, and trainable_only=True would "
                "store none: leave it out, or call requires_grad_(True) on what was trained"
            )
        left_out = {name for name in self.description["frozen"] if not name.startswith(f"{ATTRIBUTE}.")}
        left_out |= set(self.description["non_persistent"])
        aliases = self.description["aliases"]
        base = [base_entry(name, tensor) for name, tensor in self.tensors.items() if name in left_out]
        description = {
            **self.description,
            "aliases": {alias: name for alias, name in aliases.items() if name not in left_out},
            "non_persistent": [],
            "base": base + [{"name": alias, "shape": None, "entries": []} for alias in aliases if alias in left_out],
        }
        tensors = {name: tensor for name, tensor in self.tensors.items() if name not in left_out}
        formats = {name: kept for name, kept in self.formats.items() if name in tensors}
        return dataclasses.replace(self, tensors=tensors, formats=formats, description=description)

    @classmethod
    def _of(
        cls,
        root: nn.Module,
        shared: SharedParameters | None,
        tensors: Mapping[str, Tensor],
        aliases: Mapping[str, str],
        persistent: Collection[str],
    ) -> Snapshot:
        parameters = root.named_parameters(remove_duplicate=False)
        description = {
            "architecture": original_class(root).__name__,
            "plan": None if shared is None else shared.to_dict(),
            "aliases": aliases,
            "frozen": sorted(name for name, parameter in parameters if not parameter.requires_grad),
            "non_persistent": sorted(name for name in {**tensors, **aliases} if name not in persistent),
        }
        record = record_of(root)
        if record is not None:
            description["pruning"] = record.to_dict()
        return cls(root, tensors, {} if shared is None else _formats(shared, tensors, shared.plan.config), description)


def base_entry(name: str, tensor: Tensor) -> dict[str, Any]:
    """Describe a tensor that a checkpoint leaves out: its shape, and a few of its entries."""
    entries: list[float] = []
    if tensor.is_floating_point() and tensor.numel():
        flat = (cast(Any, tensor).full_tensor() if is_sharded(tensor) else tensor).detach().reshape(-1)
        places = sorted({place * (len(flat) - 1) // 3 for place in range(4)})
        entries = flat[places].float().tolist()
    return {"name": name, "shape": list(tensor.shape), "entries": entries}


def find_saved_root(model: nn.Module) -> nn.Module | None:
    """Return the compressed or pruned model in a module, which a checkpoint describes; None without one.

    Raises:
        ModelError: if the module holds several compressed models.
    """
    root = find_root(model)
    return find_pruned(model) if root is None else root  # no `or`: a module with a length of 0 counts as false


def stored_tensors(root: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """List the tensors that a checkpoint stores.

    Args:
        root: The root of a compressed model, or a pruned one.

    Returns:
        The tensors by name, and for each further name of a tensor the name that it is stored under.

    Raises:
        ModelError: if a module keeps extra state that is not a tensor.
    """
    # Buffers that a state dict leaves out are stored as well: a model on the meta device has no values for them.
    return _stored({**dict(root.named_buffers(remove_duplicate=False)), **root.state_dict(keep_vars=True)})


def _formats(shared: SharedParameters, tensors: Mapping[str, Tensor], config: Config) -> dict[str, StoreFormat]:
    """Return how a checkpoint keeps tensors, by name: large ones that are shared, and the rest."""
    rest = STORE_FORMATS[config.rest]
    found = {
        name: rest
        for name, tensor in tensors.items()
        if isinstance(tensor, nn.Parameter) and not name.startswith(f"{ATTRIBUTE}.")
    }
    for group, generator in zip(shared, shared.generators(), strict=True):
        names = [f"{ATTRIBUTE}.{group}.{name}" for name in generator.stored_names()]
        found |= dict.fromkeys(names, STORE_FORMATS[config.store])
    return found


def _stored(named: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, str]]:
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first_names: dict[Any, str] = {}
    for name, tensor in named.items():
        if not isinstance(tensor, Tensor):
            raise ModelError(f"{name} is state of type {type(tensor).__name__}, which a checkpoint cannot hold")
        first = first_names.setdefault(_storage_key(tensor), name)
        if first == name:
            tensors[name] = tensor
        else:
            aliases[name] = first
    return tensors, aliases


def check_wrapper(model: nn.Module, root: nn.Module) -> None:
    """Refuse a model of which only a part is compressed: a checkpoint holds that part alone.

    Raises:
        ModelError: if so.
    """
    inside = {id(tensor) for tensor in _tensors(root)}
    if any(id(tensor) not in inside for tensor in _tensors(model)):
        path = next(path for path, module in model.named_modules() if module is root)
        raise ModelError(
            f"only {path} ({original_class(root).__name__}) is compressed, and {type(model).__name__} holds more than "
            f"that. Save and load model.{path} by itself, and the rest with torch.save(...)"
        )


def _check_plan(root: nn.Module) -> None:
    """Refuse a model whose layers are not those of its plan: no freshly built model would fit its checkpoint."""
    names = {name: None for weight in require_shared(root).plan.weights for name in weight.names}
    lost = [name for name in names if not is_generated(root, name)]
    if lost:
        raise ModelError(
            f"{lost[0]} was generated when the model was compressed and is not any more: the layer was replaced. "
            "Replace layers before shapeshift.compress(model, ...), or after shapeshift.materialize(model)"
        )
    added = [name for name in generated_names(root) if name not in names]
    if added:
        raise ModelError(
            f"{added[0]} is generated and was not a name of a weight when the model was compressed: its layer was put "
            "there since. Put layers in place before shapeshift.compress(model, ...), or after "
            "shapeshift.materialize(model)"
        )


def _tensors(module: nn.Module) -> Iterable[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _storage_key(tensor: Tensor) -> Any:
    """Return a key that tensors of one storage share; the object's id where there is no storage."""
    if tensor.numel() == 0 or tensor.is_meta or is_sharded(tensor):
        return id(tensor)
    return tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()
