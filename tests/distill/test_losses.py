"""The losses of the methods: their formulas, and their values at extremes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from shapeshift import ModelError
from shapeshift.distill import DISTILLERS, KD, OFD, SRRL
from shapeshift.distill.ofd import margins
from shapeshift.distill.srrl import match_softmax_regression, match_statistics
from shapeshift.networks.wide_resnet import WideResNet
from tests.distilling import every_method
from tests.models import loss_of
from tests.teachers import CLASSES, bert, gpt2, images, timm_resnet, timm_vit, tokens
from tests.tolerances import assert_close


class TestFormulas:
    """Losses, from features that are read by hand, as the papers define them."""

    def test_kd(self) -> None:
        teacher, student, x = WideResNet(10, 0.5).eval(), WideResNet(10, 0.25).eval(), images()
        distiller = KD(teacher, student, weight=0.3, temperature=2.0)
        ours, theirs = student(x), teacher(x)
        p, q = (theirs / 2).softmax(-1), (ours / 2).softmax(-1)
        expected = 0.3 * 4 * (p * (p.log() - q.log())).sum(-1).mean()
        assert_close(distiller(x), expected, "reordered")

    def test_kd_leaves_ignored_positions_out(self) -> None:
        teacher, student, x = gpt2(2, 16).eval(), gpt2(1, 16).eval(), tokens()["input_ids"]
        labels = x.clone()
        labels[:, 7:] = -100
        distiller = KD(teacher, student)
        student(x)
        found = distiller(x, labels)
        student(x[:, :7])  # causal: what is left out has no influence on what comes before
        assert_close(found, distiller(x[:, :7]), "reordered")
        student(x)
        assert not torch.isclose(found, distiller(x))

    def test_kd_refuses_maps_of_logits(self) -> None:
        teacher, student, x = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), images()
        distiller = KD(teacher, student)
        student(x)
        with pytest.raises(ModelError, match=r"KD needs \(N, classes\), or \(N, positions, classes\)"):
            distiller(x)

    def test_srrl_takes_a_batch_of_one_token(self) -> None:
        teacher, student, x = timm_vit(2, 24).eval(), timm_vit(1, 16), images()[:1]
        distiller = SRRL(teacher, student)
        student(x)
        loss = distiller(x)
        loss.backward()
        assert loss.isfinite()

    def test_srrl_compares_logits_in_float32_under_autocast(self) -> None:
        connected, target, weight = torch.randn(4, 16), torch.randn(4, 16), torch.randn(3, 16)
        expected = match_softmax_regression(connected, target, weight, None)
        with torch.autocast("cpu", torch.bfloat16):
            assert_close(match_softmax_regression(connected, target, weight, None), expected, "identical")

    def test_ofd(self) -> None:
        teacher, student, x = timm_resnet(8, 12, 8, 16).eval(), timm_resnet(8, 8, 8, 8).eval(), images(64)
        distiller = OFD(teacher, student, weight=0.5, scale=1e-4)
        kept: dict[tuple[int, str], Tensor] = {}
        relus = ["layer1.0.act2", "layer2.0.act2", "layer3.0.act3", "layer4.0.act2"]
        for index, model in enumerate((teacher, student)):
            for name in relus:
                model.get_submodule(name).inplace = False
                model.get_submodule(name).register_forward_pre_hook(
                    lambda module, args, key=(index, name): kept.__setitem__(key, args[0].detach().clone())
                )
        student(x)
        found = distiller.eval()(x)
        expected = 0.0
        for stage, (relu, norm) in enumerate(zip(relus, ["bn2", "bn2", "bn3", "bn2"], strict=True)):
            batch_norm = teacher.get_submodule(relu.rpartition(".")[0]).get_submodule(norm)
            margin = margins(batch_norm.weight, batch_norm.bias).view(1, -1, 1, 1)
            target = kept[0, relu].maximum(margin)
            source = distiller.connectors[stage](kept[1, relu])
            both_negative = (source <= target) & (target <= 0)
            expected += 0.5 ** (3 - stage) * (source - target)[~both_negative].square().sum()
        assert_close(found, 0.5 * 1e-4 * expected / len(x), "reordered")

    def test_srrl(self) -> None:
        teacher, student, x = WideResNet(10, 0.5).eval(), WideResNet(10, 0.25).eval(), images()
        distiller = SRRL(teacher, student, weight=0.5, alpha=2.0, beta=3.0).eval()
        theirs = teacher.relu(teacher.norm(teacher.blocks(teacher.stem(x))))
        ours = distiller.connector(student.relu(student.norm(student.blocks(student.stem(x)))))
        assert ours.min() == 0
        logits = [teacher.head(maps.mean((2, 3))) for maps in (ours, theirs)]
        expected = 0.5 * (2 * match_statistics(ours, theirs) + 3 * (logits[0] - logits[1]).square().mean())
        student(x)
        assert_close(distiller(x), expected, "reordered")

    def test_srrl_reads_every_position_of_a_language_model(self) -> None:
        teacher, student, x = gpt2(2, 24).eval(), gpt2(1, 16).eval(), tokens()["input_ids"]
        distiller = SRRL(teacher, student, alpha=0.0).eval()
        ours = student.transformer(x).last_hidden_state.movedim(2, 1)[..., None]
        connected = distiller.connector(ours)[..., 0].movedim(1, 2)
        student(x)
        expected = (teacher.lm_head(connected) - teacher(x).logits).square().mean()
        assert_close(distiller(x), expected, "reordered")

    def test_pooled_features_are_read_before_a_dropout(self) -> None:
        teacher, student = (bert("SequenceClassification", 2, 16, num_labels=3) for _ in range(2))
        distiller = SRRL(teacher, student)
        assert distiller._student_recorder.features[0].path == "bert.pooler"

    def test_a_teacher_matches_itself(self) -> None:
        teacher, x = timm_resnet(8, 8, 8, 16).eval(), images(64)
        student = copy.deepcopy(teacher)
        distiller = KD(teacher, student)
        student(x)
        assert_close(distiller(x).detach(), torch.tensor(0.0), "reordered")
        features = torch.randn(4, 8)
        zero = match_softmax_regression(features, features, torch.randn(3, 8), None)
        assert_close(zero, torch.tensor(0.0), "identical")


class TestNumbers:
    def test_margins_are_means_of_what_is_negative(self) -> None:
        generator = torch.Generator().manual_seed(0)
        scale, shift = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.0, 1.0, -0.4])
        drawn = torch.randn(200_000, 3, generator=generator) * scale + shift
        expected = torch.stack([column[column < 0].mean() for column in drawn.unbind(1)])
        torch.testing.assert_close(margins(scale, shift), expected, rtol=2e-2, atol=0)

    def test_margins_of_channels_that_do_not_vary(self) -> None:
        scale = torch.tensor([0.0, 0.0, 0.0, 1e-30, 1.0, 1e-6, 1.0])
        shift = torch.tensor([0.0, -2.0, 3.0, 1.0, 50.0, -5.0, -50.0])
        found = margins(scale, shift)
        assert_close(found, torch.tensor([0.0, -2.0, 0.0, -3e-30, -3.0, -5.0, -50.0]), "identical")
        assert (found <= 0).all()

    @pytest.mark.parametrize("spoil", ["zero scale", "constant features", "fully negative", "constant input"])
    @every_method
    def test_extremes_give_finite_losses_and_gradients(self, method: str, spoil: str) -> None:
        teacher, student, x = WideResNet(10, 0.5, CLASSES), WideResNet(10, 0.25, CLASSES), images()
        for model in (teacher, student):
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d) and spoil == "zero scale":
                    nn.init.zeros_(module.weight)
                if isinstance(module, nn.BatchNorm2d) and spoil == "fully negative":
                    nn.init.constant_(module.bias, -100)
                if isinstance(module, nn.Conv2d) and spoil == "constant features":
                    nn.init.zeros_(module.weight)
        if spoil == "constant input":
            x = torch.zeros_like(x)
        distiller = DISTILLERS[method](teacher, student)
        own = loss_of(student(x))
        loss = distiller(x)
        (own + loss).backward()
        assert loss.isfinite()
        for parameter in [*student.parameters(), *distiller.parameters()]:
            assert parameter.grad is not None
            assert parameter.grad.isfinite().all()
