"""Stages, activations and classifiers of a network, found in one forward pass.

Only the trace of the pass is read, so the functions work on models of any library.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence, Set
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from shapeshift.distill.features import Feature, is_norm, locate, positions
from shapeshift.distill.trace import Call, ReLU, Trace, Value, first_tensor
from shapeshift.surgery.attached import is_attached, original_class


@dataclass(frozen=True)
class Step:
    """A call that takes and returns features.

    Attributes:
        call: The call of a module.
        before: The number of positions of the feature that it takes.
        after: The number of positions of the feature that it returns.
    """

    call: Call
    before: int
    after: int


def find_stages(trace: Trace) -> list[Value]:
    """Find the output of each stage of a network.

    A stage of a convolutional network is the part that runs at one resolution. It has at least one block that keeps the
    resolution, or that leads to it and continues there, unlike the stem. Where the resolution never changes, as in most
    transformers, each repeated layer is a stage.
    """
    resolutions = Resolutions(steps_of(trace), _weighted_modules(trace.model))
    computed = resolutions.kept | resolutions.started(trace.calls[0].input)
    stages = [value for resolution, value in resolutions.ends.items() if resolution in computed]
    layers = _repeated_layers(resolutions.keeping)
    return layers if len(stages) < 2 <= len(layers) else stages


def steps_of(trace: Trace) -> list[Step]:
    """Return the calls of submodules that take and return a batch of features, in the order in which they started."""
    batch, channels_last = _batch(trace), _channels_last(trace)
    steps = []
    for call in trace.calls:
        if call.path and call.input is not None and call.output is not None:
            shapes = call.input.tensor.shape, call.output.tensor.shape
            # The first dimension can also count the windows of an image, or the heads of attention.
            if all(len(shape) > 1 and shape[0] == batch for shape in shapes):
                before, after = (
                    positions(shape, len(shape) - 1 if shape in channels_last else None) for shape in shapes
                )
                steps.append(Step(call, before, after))
    return steps


def _channels_last(trace: Trace) -> set[torch.Size]:
    """List the shapes of features that a linear layer reads: their last axis counts channels."""
    linear = [call for call in trace.calls if isinstance(call.module, nn.Linear)]
    return {call.input.tensor.shape for call in linear if call.input is not None}


def _batch(trace: Trace) -> int | None:
    entered = trace.calls[0].input
    return None if entered is None else entered.tensor.shape[0]


def _weighted_modules(model: nn.Module) -> set[str]:
    """List the modules that compute with a parameter of two or more dimensions, their own or one inside them."""
    weighted: set[str] = set()
    for path, module in model.named_modules():
        if is_attached(module) or any(weight.dim() > 1 for weight in module._parameters.values() if weight is not None):
            parts = path.split(".")
            weighted.update(".".join(parts[:end]) for end in range(len(parts) + 1))
    return weighted


@dataclass(frozen=True)
class Resolutions:
    """The resolutions of a network: where it goes from one to the next, and which of them its blocks run at.

    A resolution is a number of positions, such as the pixels of a map.

    Attributes:
        steps: The calls that take and return features, in the order in which they started.
        weighted: The dotted paths of the modules with weights.
    """

    steps: Sequence[Step]
    weighted: Set[str]

    @cached_property
    def sizes(self) -> dict[Call, set[int]]:
        """The resolutions before and after each call of a module with weights."""
        return {step.call: {step.before, step.after} for step in self.steps if step.call.path in self.weighted}

    @cached_property
    def keeping(self) -> list[Step]:
        """The calls of modules with weights that keep a resolution of several positions."""
        return [step for step in self.steps if 1 < step.before == step.after and step.call.path in self.weighted]

    @cached_property
    def reducing(self) -> list[Step]:
        """The calls that lead from one resolution to the next; of nested ones, the outermost."""
        # A reduction inside a call that keeps its resolution is undone there.
        inside = {inner for step in self.keeping for inner in step.call.inner}
        found = []
        for step in self.steps:
            if step.call not in inside and self._leads_on(step):
                inside.update(step.call.inner)
                found.append(step)
        return found

    @cached_property
    def ends(self) -> dict[int, Value]:
        """The last value at each resolution: the input of the call that leaves it, or the output of the last block."""
        ends = {step.before: step.call.input for step in self.reducing}
        lowest = min([max((step.before for step in self.steps), default=1), *(step.after for step in self.reducing)])
        lowest = self._with_tokens(lowest)
        finals = [step.call for step in self.steps if step.after == lowest]
        # A single layer after the last block belongs to the classifier.
        blocks = [call for call in finals if call.inner and call.path in self.weighted]
        if finals:
            ends[lowest] = max(blocks or finals, key=lambda call: call.end).output
        return {resolution: value for resolution, value in ends.items() if value is not None}

    def _with_tokens(self, lowest: int) -> int:
        """Return the number of positions that the last blocks run at: class tokens may join those of the last map."""
        left = max(self.reducing, key=lambda step: step.call.end, default=None)
        if left is None or lowest in self.kept:
            return lowest
        blocks = [step for step in self.keeping if step.call.inner and step.call.end > left.call.end]
        return next((step.after for step in blocks if lowest < step.after < left.before), lowest)

    @cached_property
    def kept(self) -> set[int]:
        """The resolutions that a block keeps; those that a single layer keeps, where no block keeps any."""
        left = {inner: step.before for step in self.reducing for inner in step.call.inner}
        # Inside a call that leaves a resolution, a part that still keeps it is no block of its own.
        own = [step for step in self.keeping if step.after != left.get(step.call)]
        return {step.after for step in own if step.call.inner} or {step.after for step in own}

    def started(self, entered: Value | None) -> set[int]:
        """Return the resolutions whose first block leads to them and continues there; it may be the whole stage.

        Args:
            entered: The input of the model. A block that reads it is the stem.
        """
        return {
            step.after
            for step in self.reducing
            if step.call.input != entered and any(self.sizes.get(call) == {step.after} for call in step.call.inner)
        }

    def _leads_on(self, step: Step) -> bool:
        """Return whether a module by itself leads to the next resolution. In a sequence or a stage, a part does."""
        if not 1 < step.after < step.before or original_class(step.call.module) is nn.Sequential:
            return False
        # Neither a squeeze to one position, as in squeeze-and-excitation, nor the padded form of the resolution that
        # the module leaves is a resolution of the network.
        inside = [size for call in step.call.inner for size in self.sizes.get(call, ())]
        if any(size not in (1, step.after) and size < step.before for size in inside):
            return False
        # Several blocks at the resolution before it are a stage. A convolution with its normalisation is no block.
        blocks = [
            (call.parent, original_class(call.module))
            for call in step.call.inner
            if self.sizes.get(call) == {step.before} and self._layers_with_weights(call) > 1
        ]
        return len(blocks) == len(set(blocks))

    def _layers_with_weights(self, call: Call) -> int:
        """Count the calls inside a call that have weights and no calls inside them."""
        return sum(not part.inner and part.path in self.weighted for part in call.inner)


def _repeated_layers(keeping: Sequence[Step]) -> list[Value]:
    """Return the outputs of the most numerous siblings of one class among calls that keep their resolution."""
    siblings: defaultdict[tuple[str, type[nn.Module]], dict[str, Value]] = defaultdict(dict)
    for step in keeping:
        if step.call.inner and step.call.output is not None:
            siblings[step.call.parent, original_class(step.call.module)][step.call.path] = step.call.output
    return list(max(siblings.values(), key=len, default={}).values())


def before_activation(trace: Trace, value: Value) -> Feature | None:
    """Find where a feature can be read before its ReLU (Heo et al. 2019, section 3.1), and the norm before it.

    Args:
        trace: The pass that computed the value.
        value: The output of a stage. If a ReLU made it, the feature is the input of the ReLU. If a normalisation reads
            it, as in networks with pre-activation, the feature is the output of the normalisation. Otherwise the
            feature is the value itself.

    Returns:
        The place; None if no module takes or returns the feature.
    """
    made_by = [relu for relu in trace.relus if relu.output == value]
    if made_by:
        return locate(trace, made_by[-1].input, _norm_before(trace, made_by[-1]))
    for norm in _norms(trace):
        if norm.input == value and norm.output is not None:
            inside = [relu for relu in trace.relus if relu.inside == norm.path]
            return locate(trace, inside[-1].input if inside else norm.output, norm)
    return as_it_is(trace, value)


def as_it_is(trace: Trace, value: Value) -> Feature | None:
    """Find where a feature can be read as it is, and the last norm before it; None if no module takes or returns it."""
    norms = _norms(trace)
    returned = [norm for norm in norms if norm.output == value]
    ends = [call.end for call in trace.calls if call.output == value]
    before = [norm for norm in norms if ends and norm.end < min(ends) and _shape(norm) == value.tensor.shape]
    return locate(trace, value, max(returned or before, key=lambda norm: norm.end, default=None))


def _norm_before(trace: Trace, relu: ReLU) -> Call | None:
    """Find the normalisation whose output a ReLU takes, perhaps with a shortcut added to it."""
    norms = _norms(trace)
    fused = [norm for norm in norms if norm.path == relu.inside]
    before = [norm for norm in norms if norm.end < relu.end and _shape(norm) == relu.input.tensor.shape]
    # Before a sum there are two norms: that of the main path is a sibling of the ReLU, the other is in the shortcut.
    beside = [norm for norm in before if norm.parent == relu.inside]
    return max(fused or beside or before, key=lambda norm: norm.end, default=None)


def _norms(trace: Trace) -> list[Call]:
    return [call for call in trace.calls if is_norm(call.module)]


def _shape(call: Call) -> Sequence[int] | None:
    return None if call.output is None else call.output.tensor.shape


def find_classifier(trace: Trace) -> Call | None:
    """Find the layer that makes the logits: the one that returns them, or else the last one with parameters.

    Returns:
        The call of the layer; None if it is a normalisation, as in a model without a head.
    """
    layers = [call for call in trace.calls if not call.inner and call.output is not None and _has_parameters(call)]
    logits = first_tensor(trace.output)
    exact = [call for call in layers if call.output is not None and call.output.tensor is logits]
    last = max(exact or layers, key=lambda call: call.end, default=None)
    return None if last is None or is_norm(last.module) else last


def _has_parameters(call: Call) -> bool:
    return is_attached(call.module) or next(call.module.parameters(), None) is not None
