"""Distillation in training loops: compiled, parallel, accumulated, in half precision, and resumed."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import shapeshift
from shapeshift import ModelError
from shapeshift.distill import DISTILLERS, KD, OFD, SRRL, TeacherStudent
from shapeshift.networks.wide_resnet import WideResNet
from tests.distilling import CLASSES, batch, build, every_method, expected_step, gradients, losses, models, step
from tests.processes import WORLD, needs_gloo, spawn
from tests.tolerances import assert_close


class Checkpointed(WideResNet):
    """A wide residual network that computes its blocks anew in the backward pass, where it is told how."""

    use_reentrant: bool | None = None

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if self.use_reentrant is None:
            x = self.blocks(x)
        else:
            x = checkpoint(self.blocks, x.requires_grad_(), use_reentrant=self.use_reentrant)
        return self.head(self.pool(self.relu(self.norm(x))).flatten(1))


class TestLoops:
    @every_method
    def test_training_lowers_the_loss(self, method: str) -> None:
        teacher, student = models()
        distiller, (x, y) = build(method, teacher, student), batch(8)
        optimizer = torch.optim.Adam([*student.parameters(), *distiller.parameters()], lr=1e-2)
        found = []
        for _ in range(15):
            optimizer.zero_grad()
            student(x)
            loss = distiller(x, y)
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        assert max(found[-3:]) < 0.7 * found[0]

    def test_two_micro_batches_have_the_gradients_of_one_batch(self) -> None:
        teacher, student = models()
        distiller, (x, y) = KD(teacher, student.eval()), batch()
        losses(student, distiller, x, y).backward()
        (expected,) = gradients(student)
        student.zero_grad()
        for part, labels in zip(x.chunk(2), y.chunk(2), strict=True):
            (losses(student, distiller, part, labels) / 2).backward()
        assert_close(gradients(student), [expected], "reordered gradient")

    @every_method
    def test_autocast(self, method: str) -> None:
        x, y = batch()
        loss, (expected, _) = expected_step(method, x, y)
        teacher, student = models()
        distiller = build(method, teacher, student)
        with torch.autocast("cpu", torch.bfloat16):
            found = losses(student, distiller, x, y)
        found.backward()
        assert found.dtype == torch.float32
        assert_close(found.detach(), loss, "half")
        cosine = F.cosine_similarity(
            *(torch.cat([g.flatten() for g in every.values()]) for every in (expected, *gradients(student))), dim=0
        )
        assert cosine > 0.98

    @every_method
    def test_a_teacher_under_autocast(self, method: str) -> None:
        x, y = batch()
        loss, _ = expected_step(method, x, y)
        teacher, student = models()
        seen: list[torch.dtype] = []
        teacher.head.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
        student.head.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
        distiller = build(method, teacher, student, autocast=torch.bfloat16)
        seen.clear()
        found, _ = step(student, distiller, x, y)
        assert seen == [torch.float32, torch.bfloat16]
        assert found != loss
        assert_close(found, loss, "half")

    @every_method
    def test_models_in_half_precision(self, method: str) -> None:
        teacher, student = (model.bfloat16() for model in models())
        distiller, (x, y) = build(method, teacher, student), batch()
        expected = expected_step(method, x, y)[0] - F.cross_entropy(models()[1](x), y).detach()
        student(x.bfloat16())
        loss = distiller(x.bfloat16(), y)
        loss.backward()
        assert loss.dtype == torch.float32
        assert_close(loss.detach(), expected, "half")
        assert student.stem.weight.grad.dtype == torch.bfloat16

    @every_method
    @pytest.mark.parametrize("use_reentrant", [False, True])
    def test_gradient_checkpointing(self, method: str, use_reentrant: bool) -> None:
        teacher, _ = models()
        torch.manual_seed(3)
        student = Checkpointed(10, 0.25, CLASSES).eval()
        distiller, (x, y) = build(method, teacher, student), batch()
        _, expected = step(student, distiller, x, y)
        student(x)  # what this pass leaves is not taken for a part of the next one
        student.use_reentrant = use_reentrant
        if use_reentrant and method == "ofd":  # whose features lie inside the block that is computed without gradients
            with pytest.raises(ModelError, match="not under reentrant checkpointing"):
                step(student, distiller, x, y)
            return
        _, found = step(student, distiller.train(), x, y)
        assert_close(found, expected, "reordered gradient")
        # What is recomputed in the backward pass is not kept: it would hold on to the graph of the whole block.
        assert not distiller._student_recorder._kept

    @every_method
    def test_resumes_where_it_was_saved(self, method: str) -> None:
        x, y = batch()

        def start() -> tuple[nn.Module, TeacherStudent, torch.optim.Optimizer]:
            teacher, student = models()
            distiller = DISTILLERS[method](teacher, student)
            parameters = [*student.parameters(), *distiller.parameters()]
            return student, distiller, torch.optim.AdamW(parameters, lr=1e-2)

        def train(student: nn.Module, distiller: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
            found = []
            for _ in range(2):
                found.append(step(student, distiller, x, y)[0])
                optimizer.step()
            return found

        first = start()
        train(*first)
        file = io.BytesIO()
        torch.save([part.state_dict() for part in first], file)
        expected = train(*first)
        file.seek(0)
        second = start()
        for part, state in zip(second, torch.load(file), strict=True):
            part.load_state_dict(state)
        assert_close(train(*second), expected, "identical")


class TestCompressedStudents:
    def compressed(self, student: nn.Module) -> nn.Module:
        torch.manual_seed(4)
        return shapeshift.compress(student, 0.6)

    @every_method
    def test_before_and_after_give_the_same_gradients(self, method: str) -> None:
        x, y = batch()
        found = []
        for is_compressed_first in (True, False):
            teacher, student = models()
            if is_compressed_first:
                self.compressed(student)
            distiller = build(method, teacher, student)
            if not is_compressed_first:
                self.compressed(student)
            assert shapeshift.is_compressed(student)
            found.append(step(student, distiller, x, y))
        assert any("shapeshift" in name for name in found[0][1][0])
        assert_close(found[0], found[1], "identical")

    @every_method
    def test_materialized_later(self, method: str) -> None:
        teacher, student = models()
        self.compressed(student)
        distiller, (x, y) = build(method, teacher, student.eval()).eval(), batch()
        expected = losses(student, distiller, x, y).detach()
        shapeshift.materialize(student)
        found, (own, _) = step(student, distiller, x, y)
        assert_close(found, expected, "reordered")
        assert "stem.weight" in own


# Torch hides the warning of its own compiler with a filter that "warnings are errors" overrules.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
class TestCompiled:
    @pytest.mark.parametrize(("method", "is_compiled_first"), [*((name, False) for name in DISTILLERS), ("ofd", True)])
    def test_has_the_gradients_of_the_plain_student(self, method: str, is_compiled_first: bool) -> None:
        x, y = batch()
        expected = expected_step(method, x, y)
        teacher, student = models()
        torch._dynamo.reset()
        compiled = torch.compile(student, backend="aot_eager", fullgraph=True)
        distiller = build(method, teacher, compiled if is_compiled_first else student)
        for _ in range(2):
            student.load_state_dict(models()[1].state_dict())
            distiller.zero_grad()
            student.zero_grad()
            found = losses(compiled, distiller, x, y)
            found.backward()
            if is_compiled_first:
                with torch.no_grad():
                    compiled(x)
        assert_close((found.detach(), gradients(student, distiller)), expected, "compiled")

    def test_in_place(self) -> None:
        x, y = batch()
        loss, _ = expected_step("ofd", x, y)
        teacher, student = models()
        torch._dynamo.reset()
        distiller = build("ofd", teacher, student)
        student.compile(backend="aot_eager", fullgraph=True)
        assert_close(step(student, distiller, x, y)[0], loss, "compiled")

    def test_one_that_has_run_before_says_so(self) -> None:
        teacher, student = models()
        torch._dynamo.reset()
        compiled, (x, y) = torch.compile(student, backend="aot_eager"), batch()
        compiled(x)
        distiller = OFD(teacher, compiled)
        compiled(x)
        with pytest.raises(ModelError, match="compiled, build the distiller before the first run"):
            distiller(x, y)

    def test_a_compiled_teacher(self) -> None:
        x, y = batch()
        loss, _ = expected_step("srrl", x, y)
        teacher, student = models()
        torch._dynamo.reset()
        distiller = build("srrl", torch.compile(teacher, backend="aot_eager"), student)
        assert isinstance(distiller, SRRL)
        assert_close(step(student, distiller, x, y)[0], loss, "compiled")


def train_in_processes(rank: int, folder: Path) -> None:
    x, y = (tensor.chunk(WORLD)[rank] for tensor in batch())
    found = {}
    for method in DISTILLERS:
        for training in (False, True):
            teacher, student = models()
            replica = DistributedDataParallel(student.train(training))
            distiller: nn.Module = build(method, teacher, replica).train(training)
            if any(True for _ in distiller.parameters()):
                distiller = DistributedDataParallel(distiller)
            found[method, training] = step(replica, distiller, x, y)
    torch.save(found, folder / f"{rank}.pt")


@needs_gloo
def test_two_processes_have_the_gradients_of_one_with_the_joint_batch(tmp_path: Path) -> None:
    spawn(train_in_processes, tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(WORLD))
    assert set(first) == {(method, training) for method in DISTILLERS for training in (False, True)}
    x, y = batch()
    for (method, training), (loss, of_first) in first.items():
        other, of_second = second[method, training]
        assert_close(of_first, of_second, "identical")
        assert all(gradient.isfinite().all() for part in of_first for gradient in part.values())
        if not training:  # where a batch norm does not tell the batches apart
            teacher, student = models()
            distiller = build(method, teacher, student.eval()).eval()
            expected_loss, expected = step(student, distiller, x, y)
            assert_close((loss + other) / 2, expected_loss, "reordered")
            assert_close(of_first, expected, "reordered gradient")
