"""The content of a checkpoint: how it is described, distrusted, and matched with a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from shapeshift.checkpoint.matching import (
    adapted_plan,
    base_differences,
    check_generates,
    plan_differences,
    state_after,
    state_differences,
)
from shapeshift.errors import CheckpointError, ShapeshiftError
from shapeshift.plan import Plan
from shapeshift.prune.record import PruningRecord
from shapeshift.surgery.attached import original_class
from shapeshift.surgery.layers import check_attachable
from shapeshift.surgery.shared_parameters import SharedParameters
from shapeshift.surgery.sharing import sharing_difference
from shapeshift.version import __version__

FORMAT = "shapeshift"
FORMAT_VERSION = 2
_SHOWN_DIFFERENCES = 5


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint: how its model was compressed and pruned, and its tensors by every name they have.

    Attributes:
        file: the file that describes the model.
        architecture: the model's class.
        plan: how it was compressed; None if it was not.
        fit_errors: the relative error of each weight after a fit, by name; empty without a fit.
        pruning: how it was pruned; None if it was not.
        frozen: the names of parameters that were not trained.
        non_persistent: the names of buffers that a state dict leaves out.
        aliases: for each further name of a tensor the name that it is stored under.
        tensors: the tensors; empty while only the description has been read.
        base: what is known of each frozen tensor that was left out, by name: its shape, and a few of its entries.
    """

    file: Path
    architecture: str
    plan: Plan | None
    fit_errors: dict[str, float]
    pruning: PruningRecord | None
    frozen: frozenset[str]
    non_persistent: frozenset[str]
    aliases: dict[str, str]
    tensors: dict[str, Tensor] = field(default_factory=dict)
    base: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def parse(cls, description: Any, file: Path) -> Checkpoint:
        """Read the description of a model, without its tensors.

        Args:
            description: The content of the JSON file.
            file: The file that it was read from.

        Raises:
            CheckpointError: if the description is damaged or foreign, or was written by a newer version.
        """
        if not isinstance(description, dict) or description.get("format") != FORMAT:
            raise CheckpointError(f"{file} was not written by shapeshift.save")
        version = description.get("format_version")
        if not isinstance(version, int) or version > FORMAT_VERSION:
            raise CheckpointError(
                f"{file} has format version {version!r}, written by shapeshift {description.get('shapeshift')}; "
                f"this is shapeshift {__version__}, which reads up to version {FORMAT_VERSION}. Upgrade shapeshift"
            )
        try:
            pruning = PruningRecord.from_dict(description["pruning"]) if "pruning" in description else None
            plan, errors = None, {}
            if description["plan"] is not None or pruning is None:
                plan = Plan.from_dict(description["plan"])
                found = description["plan"].get("errors", {})
                errors = {str(name): float(error) for name, error in found.items()}
            aliases = {str(alias): str(name) for alias, name in description["aliases"].items()}
            frozen, non_persistent = (frozenset(map(str, description[kind])) for kind in ("frozen", "non_persistent"))
            architecture = str(description["architecture"])
            base = {str(entry["name"]): dict(entry) for entry in description.get("base", ())}
        except ShapeshiftError as error:
            raise CheckpointError(f"{file} (shapeshift {description.get('shapeshift')}): {error}") from None
        except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
            what = f"{type(error).__name__}: {error}"
            raise CheckpointError(
                f"{file} is damaged: its plan cannot be read ({what}). Save the model again"
            ) from None
        return cls(file, architecture, plan, errors, pruning, frozen, non_persistent, aliases, base=base)

    @property
    def folder(self) -> Path:
        return self.file.parent

    def plan_for(self, model: nn.Module) -> Plan:
        """Return the plan with the dtypes and devices of a plain model, which must have all its weights.

        Raises:
            CheckpointError: if the checkpoint has no plan, or the model has another architecture.
            ModelError: if the model cannot be compressed.
        """
        if self.plan is None:
            raise CheckpointError(f"{self.file} holds no plan of a compressed model")
        check_attachable(model)
        self.refuse(plan_differences(self.plan, model), model)
        return adapted_plan(self.plan, model)

    def check_state_after(self, plan: Plan, model: nn.Module) -> None:
        """Check that the checkpoint fits a plain model once it is compressed by a plan; nothing is allocated.

        Raises:
            CheckpointError: if it does not.
        """
        with self.distrusted():
            state = state_after(plan, model)
        self.check_state(state, model)

    def check_state(self, state: Mapping[str, Any], model: nn.Module) -> None:
        """Check that the checkpoint holds every tensor of a model's state, in its shape, and no other.

        Raises:
            CheckpointError: if it does not.
        """
        stored = {name: tensor for name, tensor in state.items() if name not in self.base}
        everything = {**dict(model.named_buffers(remove_duplicate=False)), **state}
        self.refuse(state_differences(self.persistent, stored), model)
        differences = base_differences(self.base, everything)
        if differences:
            more = len(differences) - 1
            raise CheckpointError(
                f"the {self.architecture} in {self.folder} was saved with trainable_only=True, and the frozen "
                f"parameters of the model are not those that it had: {differences[0]}"
                + (f", and {more} more" if more else "")
            )

    def check_same_sharing(self, plan: Plan) -> None:
        """Check that a model is compressed as the checkpoint's model was.

        Raises:
            CheckpointError: if it is not.
        """
        difference = "the state has none" if self.plan is None else sharing_difference(self.plan, plan)
        if difference is not None:
            raise CheckpointError(
                f"the model is compressed by another plan than the one in {self.folder}: {difference}; "
                "load into a freshly built model, or call shapeshift.materialize(model) first"
            )

    def build_shared(self, plan: Plan) -> SharedParameters:
        """Build the shared parameters of a plan, uninitialised, and check that each weight comes out of them.

        Raises:
            CheckpointError: if the plan does not work.
        """
        with self.distrusted(), torch.inference_mode(mode=False):  # whose tensors could never be trained
            shared = SharedParameters(plan, fit_errors=self.fit_errors)
            check_generates(shared)
        return shared

    @property
    def persistent(self) -> dict[str, Tensor]:
        """The tensors that a state dict holds."""
        return {name: tensor for name, tensor in self.tensors.items() if name not in self.non_persistent}

    def refuse(self, differences: Sequence[str], model: nn.Module) -> None:
        """Raise an error that names the first differences between a model and the checkpoint's, if there are any.

        Raises:
            CheckpointError: if so.
        """
        if not differences:
            return
        shown = "".join(f"\n  {difference}" for difference in differences[:_SHOWN_DIFFERENCES])
        more = len(differences) - _SHOWN_DIFFERENCES
        raise CheckpointError(
            f"the {self.architecture} in {self.folder} has another architecture than the "
            f"{original_class(model).__name__} to load it into. Build the model as it was built when it was saved. "
            "They differ in:" + shown + (f"\n  and {more} more" if more > 0 else "")
        )

    @contextmanager
    def distrusted(self) -> Iterator[None]:
        """Run code that relies on the plan, and blame the file if the code fails."""
        try:
            yield
        except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
            if isinstance(error, ShapeshiftError):
                raise
            what = f"{type(error).__name__}: {error}"
            raise CheckpointError(
                f"{self.file.name} is damaged: its plan does not work ({what}). Save the model again"
            ) from None


def stamped(description: Mapping[str, Any]) -> dict[str, Any]:
    """Return the description of a model with the fields that identify the format before it."""
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "shapeshift": __version__,
        "torch": str(torch.__version__),  # a class of its own otherwise, which pickle would name
        **description,
    }
