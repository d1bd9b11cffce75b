"""A ``Trainer`` of transformers with a distillation loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from shapeshift.distill import Distiller, TeacherStudent
from shapeshift.errors import CheckpointError, ConfigError, MissingExtraError, ModelError
from shapeshift.optimizer import parameter_groups
from shapeshift.running.labels import IGNORED
from shapeshift.running.wrappers import unwrap

try:
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    import shapeshift.integrations.transformers  # noqa: F401  its checkpoints load with from_pretrained
except ImportError as error:
    raise MissingExtraError("DistillationTrainer", "transformers") from error

_CONNECTORS = "distiller.safetensors"


class DistillationTrainer(transformers.Trainer):
    """A ``Trainer`` that adds the loss of a distiller to the model's own loss.

    Only training differs from a ``Trainer``; evaluation reports the model's own loss. The same optimizer trains the
    connectors of the distiller. Their gradients are averaged over processes and clipped, and a checkpoint has them in
    ``distiller.safetensors`` beside the model. Weight decay follows :func:`shapeshift.parameter_groups`.

    The teacher gets the same inputs as the student, including labels, and runs in the same precision. Both losses are
    means over a batch, and gradient accumulation takes the mean over the batches of a step. Only a
    ``compute_loss_func`` gets ``num_items_in_batch``.

    Args:
        model: The student, plain or compressed.
        args: The ``TrainingArguments``.
        distiller: A distiller with this model as its student.
        **options: The other arguments of ``Trainer``, except ``model_init``.

    Raises:
        ConfigError: if training would run under FSDP, DeepSpeed or ``DataParallel``, or a given optimizer does not have
            the connectors.
        ModelError: if no model is given, or the distiller has another student.

    Example:
        >>> import torch
        >>> from transformers import BertConfig, BertForSequenceClassification, PrinterCallback, TrainingArguments
        >>> from shapeshift.distill import KD
        >>> from shapeshift.integrations.transformers.distillation import DistillationTrainer
        >>> sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 50}
        >>> teacher, student = (BertForSequenceClassification(BertConfig(hidden_size=n, **sizes)) for n in (32, 16))
        >>> data = [{"input_ids": torch.arange(8), "labels": torch.tensor(index % 2)} for index in range(8)]
        >>> quiet = {"report_to": [], "disable_tqdm": True, "save_strategy": "no", "logging_strategy": "no"}
        >>> arguments = TrainingArguments("run", max_steps=1, use_cpu=True, **quiet)
        >>> with KD(teacher, student) as distiller:
        ...     trainer = DistillationTrainer(student, arguments, distiller=distiller, train_dataset=data)
        ...     trainer.remove_callback(PrinterCallback)
        ...     trainer.train().global_step
        1
    """

    def __init__(
        self,
        model: nn.Module | None = None,
        args: transformers.TrainingArguments | None = None,
        *,
        distiller: Distiller,
        **options: Any,
    ) -> None:
        if model is None:
            raise ModelError("no model: build the student, then the distiller, and give both; model_init is not used")
        for part in distiller.modules():
            if isinstance(part, TeacherStudent) and unwrap(part.student) is not unwrap(model):
                raise ModelError(
                    f"the {type(part).__name__} reads another {type(unwrap(part.student)).__name__} than the "
                    f"{type(unwrap(model)).__name__} that is to be trained; build it with that one as its student"
                )
        _check_optimizer(options.get("optimizers", (None, None))[0], distiller)
        super().__init__(model, args, **options)
        if self.is_fsdp_enabled or self.is_deepspeed_enabled or self.args.n_gpu > 1:
            raise ConfigError(
                "DistillationTrainer reads the student through hooks, in one process per device: start it with "
                "`accelerate launch --num_processes N` or torchrun, without FSDP and DeepSpeed"
            )
        # Many heads take num_items_in_batch and ignore it. The weight of their loss relative to the distiller's would
        # then depend on the numbers of batches in a step and of processes.
        self.model_accepts_loss_kwargs = False
        self.distiller = distiller.to(self.args.device)
        self._prepared: nn.Module | None = None
        for part in distiller.modules():
            if isinstance(part, TeacherStudent):
                part.teacher.to(self.args.device)
        self.add_callback(_ConnectorGradients(distiller))

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Return the names of the parameters with weight decay, as :func:`shapeshift.parameter_groups` chooses them."""
        decayed = {id(parameter) for parameter in parameter_groups(model, weight_decay=1.0)[0]["params"]}
        return [name for name, parameter in model.named_parameters() if id(parameter) in decayed]

    def create_optimizer(self, *model: nn.Module) -> torch.optim.Optimizer:
        """Make the optimizer with the connectors, and prepare the distiller for several processes."""
        is_given = self.optimizer is not None
        optimizer = super().create_optimizer(*model)
        is_trained = any(parameter.requires_grad for parameter in self.distiller.parameters())
        if is_trained and not is_given:
            for group in parameter_groups(self.distiller, self.args.weight_decay):
                optimizer.add_param_group(group)
        if self._prepared is None:
            # DDP refuses a distiller without connectors, which has no gradients to average.
            self._prepared = self.accelerator.prepare_model(self.distiller, evaluation_mode=not is_trained)
        self.distiller.train()
        return optimizer

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Compute the model's own loss and, in training, add the distiller's."""
        labels = inputs.get("labels")  # label smoothing removes them
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if model.training:
            assert self._prepared is not None
            distilled = self._prepared(inputs, self._align(labels))
            if self._is_divided(num_items_in_batch):
                distilled = distilled / self.current_gradient_accumulation_steps
            loss = loss + distilled
        return (loss, outputs) if return_outputs else loss

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model, and the connectors in ``distiller.safetensors`` beside it."""
        super().save_model(output_dir, _internal_call)
        state = self.distiller.state_dict()
        folder = output_dir or self.args.output_dir
        if self.args.should_save and state and folder:
            safetensors.torch.save_file(state, Path(folder) / _CONNECTORS)

    def _align(self, labels: Any) -> Any:
        """Align labels with the logits that predict them: those of a causal language model predict the next token."""
        classes = {base.__name__ for base in type(self.model).__mro__}
        if isinstance(labels, Tensor) and classes & set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()):
            return nn.functional.pad(labels[..., 1:], (0, 1), value=IGNORED)
        return labels

    def _is_divided(self, num_items_in_batch: Tensor | int | None) -> bool:
        """Say whether the model's own loss is already divided by the number of batches of a step."""
        decided: bool | None = getattr(self, "loss_is_scaled_for_ga", None)
        if decided is not None:
            return decided
        return self.compute_loss_func is not None or (self.model_accepts_loss_kwargs and num_items_in_batch is not None)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        self._load_connectors(resume_from_checkpoint)
        super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        if self.state.best_model_checkpoint is not None:
            self._load_connectors(self.state.best_model_checkpoint)

    def _load_connectors(self, folder: str) -> None:
        expected = self.distiller.state_dict()
        path = Path(folder) / _CONNECTORS
        if not expected and not path.exists():
            return
        try:
            found = safetensors.torch.load_file(path)
        except (OSError, safetensors.SafetensorError) as error:
            raise CheckpointError(
                f"{path} cannot be read ({error}): resume from a checkpoint that was made with this distiller"
            ) from error
        shapes = [{name: tuple(tensor.shape) for name, tensor in state.items()} for state in (found, expected)]
        if shapes[0] != shapes[1]:
            different = sorted({name for name, _ in shapes[0].items() ^ shapes[1].items()})
            raise CheckpointError(
                f"{path} was made with another distiller, student or teacher: {', '.join(different[:5])} "
                "are not the same in both"
            )
        self.distiller.load_state_dict(found)


class _ConnectorGradients(transformers.TrainerCallback):
    """Clears and clips the gradients of the connectors when the trainer does so with the model's gradients.

    Args:
        distiller: The distiller with the connectors.
    """

    def __init__(self, distiller: Distiller) -> None:
        self.distiller = distiller

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Clear the gradients before the first batch of an optimizer's step."""
        self.distiller.zero_grad()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Clip the gradients on their own, so that the student's are clipped as without a distiller."""
        if args.max_grad_norm:
            nn.utils.clip_grad_norm_(list(self.distiller.parameters()), args.max_grad_norm)


def _check_optimizer(optimizer: torch.optim.Optimizer | None, distiller: Distiller) -> None:
    held = {id(parameter) for group in (optimizer.param_groups if optimizer else ()) for parameter in group["params"]}
    missing = [name for name, parameter in distiller.named_parameters() if id(parameter) not in held]
    if optimizer is not None and missing:
        raise ConfigError(
            f"the optimizer that is given lacks {len(missing)} parameters of the distiller, such as {missing[0]}: make "
            "it with shapeshift.parameter_groups(torch.nn.ModuleList([model, distiller]), weight_decay)"
        )
