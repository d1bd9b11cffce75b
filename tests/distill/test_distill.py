"""Where a teacher and a student are read, and what every distiller promises on every pair of them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import timm
import torch
import torchvision
import transformers
from torch import Tensor, nn

import shapeshift
from shapeshift import ModelError
from shapeshift.distill import DISTILLERS, KD, OFD, SRRL, TeacherStudent
from shapeshift.distill.ofd import margins
from shapeshift.distill.srrl import match_softmax_regression, match_statistics
from shapeshift.networks.densenet import DenseNet
from shapeshift.networks.resnet import ResNet
from shapeshift.networks.wide_resnet import WideResNet
from shapeshift.running.batches import call_model
from tests.models import loss_of
from tests.tolerances import assert_close

CLASSES = 5


def images(side: int = 16) -> Tensor:
    return torch.randn(4, 3, side, side)


def tokens(**more: Tensor) -> dict[str, Tensor]:
    return {"input_ids": torch.randint(1, 48, (4, 10)), **more}


def bert(kind: str, layers: int, width: int, **options: Any) -> nn.Module:
    config = transformers.BertConfig(
        vocab_size=48,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=2 * width,
        max_position_embeddings=16,
        **options,
    )
    return getattr(transformers, f"BertFor{kind}")(config)


def gpt2(layers: int, width: int) -> nn.Module:
    config = transformers.GPT2Config(
        vocab_size=48, n_positions=16, n_embd=width, n_layer=layers, n_head=2, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config)


def vit(layers: int, width: int) -> nn.Module:
    config = transformers.ViTConfig(
        image_size=16,
        patch_size=4,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=2 * width,
        num_labels=CLASSES,
    )
    return transformers.ViTForImageClassification(config)


def hf_resnet(depth: int, width: int) -> nn.Module:
    config = transformers.ResNetConfig(
        embedding_size=8,
        hidden_sizes=[width, 2 * width, 3 * width],
        depths=[depth] * 3,
        layer_type="basic",
        num_labels=CLASSES,
    )
    return transformers.ResNetForImageClassification(config)


def torchvision_resnet(depth: int, width: int) -> nn.Module:
    block = torchvision.models.resnet.Bottleneck
    return torchvision.models.ResNet(block, [depth, depth, depth, 1], num_classes=CLASSES, width_per_group=width)


def timm_resnet(*channels: int) -> nn.Module:
    return timm.create_model("test_resnet", num_classes=CLASSES, channels=channels)


def timm_vit(depth: int, width: int) -> nn.Module:
    return timm.create_model(
        "vit_tiny_patch16_224",
        img_size=16,
        patch_size=4,
        embed_dim=width,
        depth=depth,
        num_heads=2,
        num_classes=CLASSES,
    )


def convnext(*depths: int) -> nn.Module:
    return timm.create_model("convnext_atto", num_classes=CLASSES, depths=depths, dims=(8, 12, 16, 20))


def efficientnet(channel_multiplier: int) -> nn.Module:
    return timm.create_model("test_efficientnet", num_classes=CLASSES, channel_multiplier=channel_multiplier)


@dataclass(frozen=True)
class Pair:
    """A teacher and a student.

    Attributes:
        teacher: makes it.
        student: makes one with the same classes, and stages of the same resolutions.
        x: makes a batch for both.
    """

    teacher: Callable[[], nn.Module]
    student: Callable[[], nn.Module]
    x: Callable[[], Any]


PAIRS = {
    "wide resnet": Pair(lambda: WideResNet(16, 0.5, CLASSES), lambda: WideResNet(10, 0.25, CLASSES), images),
    "resnet": Pair(lambda: ResNet(14, num_classes=CLASSES), lambda: ResNet(8, 0.5, CLASSES), images),
    "densenet": Pair(lambda: DenseNet(22, 6, CLASSES), lambda: DenseNet(16, 4, CLASSES), images),
    "torchvision": Pair(lambda: torchvision_resnet(2, 16), lambda: torchvision_resnet(1, 8), lambda: images(64)),
    "timm resnet": Pair(lambda: timm_resnet(32, 48, 48, 96), lambda: timm_resnet(8, 8, 8, 16), lambda: images(64)),
    "timm vit": Pair(lambda: timm_vit(4, 24), lambda: timm_vit(2, 16), lambda: (images(),)),
    "convnext": Pair(lambda: convnext(2, 2, 2, 2), lambda: convnext(1, 1, 1, 1), lambda: images(64)),
    "efficientnet": Pair(lambda: efficientnet(2), lambda: efficientnet(1), lambda: images(64)),
    "bert": Pair(
        lambda: bert("SequenceClassification", 4, 24, num_labels=CLASSES),
        lambda: bert("SequenceClassification", 2, 16, num_labels=CLASSES),
        lambda: tokens(attention_mask=(torch.arange(10) < 8).long().expand(4, 10), labels=torch.arange(4)),
    ),
    "masked language model": Pair(lambda: bert("MaskedLM", 4, 24), lambda: bert("MaskedLM", 2, 16), tokens),
    "question answering": Pair(
        lambda: bert("QuestionAnswering", 4, 24), lambda: bert("QuestionAnswering", 2, 16), tokens
    ),
    "gpt2": Pair(lambda: gpt2(4, 24), lambda: gpt2(2, 16), lambda: tokens()["input_ids"]),
    "vit": Pair(lambda: vit(4, 24), lambda: vit(2, 16), lambda: {"pixel_values": images()}),
    "hf resnet": Pair(lambda: hf_resnet(2, 12), lambda: hf_resnet(1, 8), lambda: images(64)),
    "compressed": Pair(
        lambda: shapeshift.compress(WideResNet(16, 0.5, CLASSES), 0.5),
        lambda: shapeshift.compress(WideResNet(10, 0.5, CLASSES), 0.5),
        images,
    ),
}
every_pair = pytest.mark.parametrize("pair", list(PAIRS.values()), ids=list(PAIRS))
every_method = pytest.mark.parametrize("method", list(DISTILLERS))


def build(pair: Pair, method: str) -> tuple[TeacherStudent, nn.Module, nn.Module, Any]:
    teacher, student = pair.teacher(), pair.student()
    return DISTILLERS[method](teacher, student), teacher, student, pair.x()


def hooks(*models: nn.Module) -> list[Any]:
    modules = [module for model in models for module in model.modules()]
    return [hook for module in modules for hook in (*module._forward_hooks, *module._forward_pre_hooks)]


class TestEveryMethodOnEveryPair:
    @every_method
    @every_pair
    def test_gradients_reach_student_and_connectors_alone(self, pair: Pair, method: str) -> None:
        distiller, teacher, student, x = build(pair, method)
        keys = list(student.state_dict())
        before = {name: value.clone() for name, value in teacher.state_dict().items()}
        own = loss_of(call_model(student.train(), x))
        loss = distiller.train()(x)

        assert loss.shape == ()
        assert loss.dtype == torch.float32
        assert 0 < loss.item() < float("inf")
        (own + loss).backward()
        for name, parameter in [*student.named_parameters(), *distiller.named_parameters()]:
            assert parameter.grad is None or parameter.grad.isfinite().all(), name
        assert all(parameter.grad is not None and parameter.grad.any() for parameter in distiller.parameters())
        assert all(parameter.grad is None for parameter in teacher.parameters())
        assert not any(module.training for module in teacher.modules())
        assert all(module.training for module in [*student.modules(), *distiller.modules()])
        assert_close(dict(teacher.state_dict()), before, "identical")
        assert list(student.state_dict()) == keys
        ours = {id(tensor) for model in (teacher, student) for tensor in [*model.parameters(), *model.buffers()]}
        assert not ours & {id(tensor) for tensor in [*distiller.parameters(), *distiller.buffers()]}
        assert all(name.startswith("connector") for name in distiller.state_dict())

    @every_method
    @every_pair
    def test_a_step_lowers_the_loss(self, pair: Pair, method: str) -> None:
        distiller, _, student, x = build(pair, method)
        student.eval()  # without dropout, a step in the gradient's direction is one downhill
        parameters = [*student.parameters(), *distiller.parameters()]
        optimizer = torch.optim.Adam(parameters, lr=1e-4)
        losses = []
        for _ in range(2):
            optimizer.zero_grad()
            call_model(student, x)
            loss = distiller(x)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[1] < losses[0]

    @every_method
    @pytest.mark.parametrize("name", ["timm resnet", "timm vit", "convnext", "efficientnet"])
    def test_gradient_checkpointing_gives_the_same_gradients(self, method: str, name: str) -> None:
        distiller, _, student, x = build(PAIRS[name], method)
        found = []
        for is_checkpointed in (False, True):
            student.set_grad_checkpointing(is_checkpointed)
            student.eval().zero_grad()
            (loss_of(call_model(student, x)) + distiller.eval()(x)).backward()
            found.append([parameter.grad.clone() for parameter in student.parameters()])
        assert_close(found[1], found[0], "reordered gradient")

    @every_method
    @every_pair
    def test_close_removes_every_hook(self, pair: Pair, method: str) -> None:
        with build(pair, method)[0] as distiller:
            teacher, student = distiller.teacher, distiller.student
            assert hooks(teacher)
            assert hooks(student)
        assert not hooks(teacher, student)
        call_model(student, pair.x())
        with pytest.raises(ModelError, match="the distiller was closed"):
            distiller(pair.x())


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
