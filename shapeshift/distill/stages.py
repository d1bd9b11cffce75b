"""Where the stages of a network end, where its activations begin, and which layer classifies.

All of it is read from one forward pass, so that it holds for the models of any library.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from shapeshift.distill.features import Feature, is_norm, locate, positions
from shapeshift.distill.trace import Call, ReLU, Trace, Value, first_tensor
from shapeshift.surgery.attached import is_attached


@dataclass(frozen=True)
class _Step:
    """A call that takes and returns features, and the number of positions of both."""

    call: Call
    before: int
    after: int


def find_stages(trace: Trace) -> list[Value]:
    """Find what each stage of a network hands on.

    A stage of a convolutional network is what runs at one resolution, with at least one block that keeps it or goes on
    at it, so that the stem is none. Where the resolution never changes, as in most transformers, each repeated layer is
    a stage.
    """
    steps, weighted = _steps(trace), _weighted_modules(trace.model)
    stages = _resolutions(steps, weighted, trace.calls[0].input)
    layers = _repeated_layers(steps, weighted)
    return layers if len(stages) < 2 <= len(layers) else stages


def _steps(trace: Trace) -> list[_Step]:
    batch = _batch(trace)
    steps = []
    for call in trace.calls:
        if call.path and call.input is not None and call.output is not None:
            shapes = call.input.tensor.shape, call.output.tensor.shape
            # Windows of an image, or the heads of attention, stand in the batch's place.
            if all(len(shape) > 1 and shape[0] == batch for shape in shapes):
                steps.append(_Step(call, *map(positions, shapes)))
    return steps


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


def _resolutions(steps: list[_Step], weighted: set[str], entered: Value | None) -> list[Value]:
    sizes = {step.call: {step.before, step.after} for step in steps if step.call.path in weighted}
    ends: dict[int, Value] = {}
    begun: set[int] = set()  # resolutions at which a block goes on that led there
    keeping = [step for step in steps if 1 < step.before == step.after and step.call.path in weighted]
    aside = {inner for step in keeping for inner in step.call.inner}  # where a reduction or a padding is undone again
    reducing: dict[Call, int] = {}  # each call inside a module that leaves a resolution, and that resolution
    lowest = max((step.before for step in steps), default=1)
    for step in steps:
        if step.call not in reducing and step.call not in aside and _leads_on(step, sizes, weighted):
            reducing.update(dict.fromkeys(step.call.inner, step.before))
            lowest = min(lowest, step.after)
            assert step.call.input is not None
            ends[step.before] = step.call.input
            # A block that begins a stage may be all of it. One that reads what the model gets is the stem.
            if step.call.input != entered and any(sizes.get(call) == {step.after} for call in step.call.inner):
                begun.add(step.after)
    finals = [step.call for step in steps if step.after == lowest]
    # A single layer behind the last block belongs to the classifier.
    blocks = [call for call in finals if call.inner and call.path in weighted]
    if finals:
        final = max(blocks or finals, key=lambda call: call.end).output
        assert final is not None
        ends[lowest] = final
    keeping = [step for step in keeping if step.after != reducing.get(step.call)]
    kept = begun | ({step.after for step in keeping if step.call.inner} or {step.after for step in keeping})
    return [value for resolution, value in ends.items() if resolution in kept]


def _leads_on(step: _Step, sizes: dict[Call, set[int]], weighted: set[str]) -> bool:
    """Tell whether a module goes from one resolution to the next alone; of a sequence or a stage, a part of it does so.

    Args:
        step: a call of the module.
        sizes: the resolutions before and after each call of a module with weights.
        weighted: the modules with weights.
    """
    if not 1 < step.after < step.before or type(step.call.module) is nn.Sequential:
        return False
    # A squeeze to one position, as in squeeze-and-excitation, is no resolution of the network, nor is what a padding
    # makes of the one that the module leaves.
    inside = [size for call in step.call.inner for size in sizes.get(call, ())]
    if any(size not in (1, step.after) and size < step.before for size in inside):
        return False
    # Several blocks at the resolution before it are a stage. A convolution with its normalisation is no block.
    blocks = [
        (call.parent, type(call.module))
        for call in step.call.inner
        if sizes.get(call) == {step.before} and sum(not part.inner and part.path in weighted for part in call.inner) > 1
    ]
    return len(blocks) == len(set(blocks))


def _repeated_layers(steps: list[_Step], weighted: set[str]) -> list[Value]:
    siblings: defaultdict[tuple[str, type[nn.Module]], dict[str, Value]] = defaultdict(dict)
    for step in steps:
        if step.before == step.after > 1 and step.call.inner and step.call.path in weighted:
            assert step.call.output is not None
            siblings[step.call.parent, type(step.call.module)][step.call.path] = step.call.output
    return list(max(siblings.values(), key=len, default={}).values())


def before_activation(trace: Trace, value: Value) -> Feature | None:
    """Find where a feature can be read before its ReLU (Heo et al. 2019, section 3.1), and the norm in front of it.

    Args:
        trace: the pass in which the feature was met.
        value: what a stage hands on. Where a ReLU made it, what entered the ReLU is taken. Where a normalisation reads
            it first, as in networks with pre-activation, what the normalisation returns is taken. Else it is taken as
            it is.

    Returns:
        The place; None if no module takes or returns what entered the ReLU.
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
    """Find where a feature can be read, and the last norm in front of it; None if no module takes or returns it."""
    norms = _norms(trace)
    returned = [norm for norm in norms if norm.output == value]
    ends = [call.end for call in trace.calls if call.output == value]
    before = [norm for norm in norms if ends and norm.end < min(ends) and _shape(norm) == value.tensor.shape]
    return locate(trace, value, max(returned or before, key=lambda norm: norm.end, default=None))


def _norm_before(trace: Trace, relu: ReLU) -> Call | None:
    """Find the normalisation whose output a ReLU gets, perhaps with a shortcut added to it."""
    norms = _norms(trace)
    fused = [norm for norm in norms if norm.path == relu.inside]
    before = [norm for norm in norms if norm.end < relu.end and _shape(norm) == relu.input.tensor.shape]
    # Of the norms in front of a sum, the main path's stands beside the ReLU; the shortcut's is a part of the shortcut.
    beside = [norm for norm in before if norm.parent == relu.inside]
    return max(fused or beside or before, key=lambda norm: norm.end, default=None)


def _norms(trace: Trace) -> list[Call]:
    return [call for call in trace.calls if is_norm(call.module)]


def _shape(call: Call) -> Sequence[int] | None:
    return None if call.output is None else call.output.tensor.shape


def find_classifier(trace: Trace) -> Call | None:
    """Find the layer that makes the logits: the one that returns them, or else the last one with parameters.

    Returns:
        Its call; None where that layer is a normalisation, as in a model without a head.
    """
    layers = [call for call in trace.calls if not call.inner and call.output is not None and _has_parameters(call)]
    logits = first_tensor(trace.output)
    exact = [call for call in layers if call.output is not None and call.output.tensor is logits]
    last = max(exact or layers, key=lambda call: call.end, default=None)
    return None if last is None or is_norm(last.module) else last


def _has_parameters(call: Call) -> bool:
    return is_attached(call.module) or next(call.module.parameters(), None) is not None
