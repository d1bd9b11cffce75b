"""Fitting the shared parameters of a whole model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from shapeshift.errors import ModelError
from shapeshift.extras import progress_bar
from shapeshift.fitting.alternating import fit_group
from shapeshift.fitting.calibration import calibrate
from shapeshift.generators.mixed import MixedGenerator
from shapeshift.surgery.shared_parameters import SharedParameters


def fit_to_model(
    shared: SharedParameters, model: nn.Module, calibration: Iterable[Any] | None = None, progress: bool = False
) -> None:
    """Fit shared parameters to the weights of a plain model, and record the errors in their plan.

    The groups are fitted one after the other, on the device of their weights and in float32 or higher precision.

    Args:
        shared: The parameters of a plan for the model, after ``reset_parameters``. They are changed in place.
        model: The model. It is left as it was.
        calibration: The calibration data, as in :func:`shapeshift.compress`.
        progress: Whether to show a progress bar.

    Raises:
        DataError: If the calibration data is empty, or holds no inputs of the model.
        ModelError: If a weight is on the meta device, or a layer read values that are not finite.
        MissingExtraError: If ``progress`` is true and tqdm is not installed.
    """
    weights = [weight for group in shared.generators() for weight in group.weights]
    for weight in weights:
        if weight.device.type == "meta":
            raise ModelError(
                f"{weight.name} {weight.shape} is on the meta device and has no values to fit; load the model first, "
                'or leave init at "random"'
            )
    errors: dict[str, float] = {}
    with _shown(progress) as on_round:
        error_maps = None if calibration is None else calibrate(model, weights, calibration)
        for group in shared.generators():
            assert isinstance(group, MixedGenerator)  # no other generator can be fitted; the config has checked it
            values = [model.get_parameter(weight.name) for weight in group.weights]
            errors |= fit_group(group, values, error_maps, on_round)
    shared.fit_errors = errors


@contextmanager
def _shown(progress: bool) -> Iterator[Callable[[float], None]]:
    """Show a progress bar of rounds if ``progress`` is true. The number of rounds is not known in advance."""
    if not progress:
        yield lambda error: None
        return
    with progress_bar(desc="fitting", unit="round") as bar:

        def on_round(error: float) -> None:
            bar.set_postfix({"error": f"{error:.4f}"}, refresh=False)
            bar.update()

        yield on_round
