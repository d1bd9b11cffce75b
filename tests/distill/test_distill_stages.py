"""Where models are read: the ends of their stages, before the ReLU, by name; and what cannot be read."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

import shapeshift
from shapeshift import ConfigError, ModelError
from shapeshift.distill import KD, OFD, SRRL
from shapeshift.distill.features import locate
from shapeshift.distill.pairs import pair_stages
from shapeshift.distill.recorder import Recorder
from shapeshift.distill.stages import Resolutions, before_activation, find_stages, steps_of
from shapeshift.distill.trace import Trace, trace
from shapeshift.networks.resnet import ResNet
from shapeshift.networks.wide_resnet import WideResNet
from tests.distill.test_distill import (
    CLASSES,
    gpt2,
    hf_resnet,
    hooks,
    images,
    timm_resnet,
    timm_vit,
    tokens,
    torchvision_resnet,
)
from tests.models import loss_of
from tests.tolerances import assert_close

# A model of each family that timm reads features of, the side of its images, and its levels that belong to the stem.
FAMILIES: dict[str, tuple[dict[str, Any], int, int]] = {
    "resnet18": ({}, 64, 1),
    "resnet50": ({}, 64, 1),
    "resnet50d": ({}, 64, 1),
    "test_resnet": ({}, 64, 1),  # one block in each stage
    "densenet121": ({"block_config": (2, 2, 2, 2)}, 64, 1),
    "regnety_002": ({}, 64, 1),
    "efficientnet_b0": ({}, 64, 0),
    "mobilenetv3_small_100": ({}, 64, 1),
    "convnext_atto": ({}, 64, 0),
    "swin_tiny_patch4_window7_224": ({"img_size": 64, "embed_dim": 24, "depths": (2, 2, 2, 2)}, 64, 0),
    "pvt_v2_b0": ({}, 64, 0),  # whose attention reduces resolution on the side
    "coatnet_nano_rw_224": ({"img_size": 64, "depths": (1, 1, 1, 1), "embed_dim": (32, 32, 64, 64)}, 64, 1),
    "resnetv2_50": ({}, 64, 1),
    "nf_resnet26": ({}, 64, 1),
}

# Models of transformers whose stages hold the step to the next one as their last part, or whose convolutions pad what
# they read, the side of their images, and where their stages end.
_DEPTHS = [2, 2, 2]
ENDS: dict[str, tuple[dict[str, Any], int, list[str]]] = {
    "Swin": (
        {"image_size": 64, "embed_dim": 12, "depths": _DEPTHS, "num_heads": _DEPTHS, "window_size": 2},
        64,
        ["swin.encoder.layers.0.blocks.1", "swin.encoder.layers.1.blocks.1", "swin"],
    ),
    "FocalNet": (
        {"image_size": 64, "embed_dim": 12, "depths": _DEPTHS, "focal_levels": _DEPTHS, "focal_windows": [3, 3, 3]},
        64,
        [
            "the input of focalnet.encoder.stages.0.downsample",
            "the input of focalnet.encoder.stages.1.downsample",
            "focalnet",
        ],
    ),
    "Levit": (
        {"image_size": 128, "hidden_sizes": [16, 24, 32], "num_attention_heads": _DEPTHS, "depths": _DEPTHS},
        128,
        ["levit.encoder.stages.0.layers.3", "levit.encoder.stages.1.layers.3", "levit"],
    ),
    "MobileNetV2": (
        {"depth_multiplier": 0.125, "min_depth": 4},
        64,
        [
            "mobilenet_v2.conv_stem",
            "mobilenet_v2.layer.1",
            "mobilenet_v2.layer.4",
            "mobilenet_v2.layer.11",
            "mobilenet_v2",
        ],
    ),
}


class TestStages:
    @pytest.mark.parametrize("name", FAMILIES)
    def test_ends_are_those_that_timm_names(self, name: str) -> None:
        options, side, stem = FAMILIES[name]
        model, x = timm.create_model(name, **options).eval(), images(side)
        made = trace(model, x)
        with torch.no_grad():
            expected = model.forward_intermediates(x, intermediates_only=True)[stem:]
        found = [end.tensor for end in find_stages(made)]
        channels_last = [maps.shape != other.shape for maps, other in zip(found, expected, strict=True)]
        found = [maps.movedim(-1, 1) if last else maps for maps, last in zip(found, channels_last, strict=True)]
        assert_close(found, expected, "reordered")

    @pytest.mark.parametrize("name", ENDS)
    def test_end_before_the_step_to_the_next_one(self, name: str) -> None:
        options, side, expected = ENDS[name]
        config = getattr(transformers, f"{name}Config")(**options)
        made = trace(getattr(transformers, f"{name}ForImageClassification")(config).eval(), images(side))
        places = [str(locate(made, end)) for end in find_stages(made)]
        assert [place.partition(" (")[0] for place in places] == expected

    def test_of_plain_convolutions_are_what_is_pooled(self) -> None:
        widths = [8, "M", 16, 16, "M", 24, "M", 24, "M", 24, "M"]
        model, x = timm.models.vgg.VGG(widths, CLASSES, mlp_ratio=1 / 64, norm_layer=nn.BatchNorm2d).eval(), images(64)
        made = trace(model, x)
        with torch.no_grad():
            expected = model.forward_intermediates(x, intermediates_only=True)[:-1]  # the last one is pooled
        assert_close([end.tensor for end in find_stages(made)], expected, "reordered")

    def test_of_transformers_are_their_hidden_states(self) -> None:
        model, x = gpt2(3, 16).eval(), tokens()["input_ids"]
        made = trace(model, x)
        with torch.no_grad():
            hidden = model(x, output_hidden_states=True).hidden_states
        assert_close([end.tensor for end in find_stages(made)][:-1], list(hidden[1:-1]), "identical")

    @pytest.mark.parametrize(
        "model",
        [
            lambda: timm_resnet(32, 48, 48, 96),
            lambda: timm.create_model("regnety_002"),
            lambda: torchvision_resnet(2, 16),
            lambda: hf_resnet(2, 12),
            lambda: ResNet(14),
        ],
    )
    def test_are_read_before_the_relu_that_ends_them(self, model: Callable[[], nn.Module]) -> None:
        network, x = model().eval(), images(64)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):  # timm starts the last one of a block at zero
                nn.init.uniform_(module.weight, 0.5, 1.5)
        made = trace(network, x)
        ends = find_stages(made)
        places = [before_activation(made, end) for end in ends]
        assert len(ends) >= 3
        recorder = Recorder(network, [place for place in places if place], only_with_gradients=False)
        network(x)
        features = recorder.take().features
        for end, place, feature in zip(ends, places, features, strict=True):
            assert place is not None
            assert isinstance(place.norm, nn.BatchNorm2d)
            assert not place.is_rectified
            assert feature.min() < 0
            assert_close(feature.relu().detach(), end.tensor, "identical")

    @pytest.mark.parametrize("inplace", [False, True])
    def test_norm_is_the_main_paths_and_not_the_shortcuts(self, inplace: bool) -> None:
        network = timm_resnet(8, 8, 8, 8)
        for module in network.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = inplace
        made = trace(network, images(64))
        found = [before_activation(made, end) for end in find_stages(made)]
        names = {id(module): path for path, module in network.named_modules()}
        norms = [names[id(place.norm)] for place in found if place]
        assert norms == ["layer1.0.bn2", "layer2.0.bn2", "layer3.0.bn3", "layer4.0.bn2"]
        assert [place.is_overwritten for place in found if place] == [inplace] * 4

    def test_what_is_overwritten_in_place_is_kept_as_it_was(self) -> None:
        network, plain = torchvision_resnet(1, 8).eval(), torchvision_resnet(1, 8).eval()
        plain.load_state_dict(network.state_dict())
        for module in plain.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = False
        x, found, gradients = images(64), [], []
        for model in (network, plain):
            made = trace(model, x)
            places = [before_activation(made, end) for end in find_stages(made)]
            recorder = Recorder(model, [place for place in places if place], only_with_gradients=True)
            loss = loss_of(model(x))
            features = recorder.take().features
            (loss + sum(feature.square().mean() for feature in features)).backward()
            found.append([feature.detach() for feature in features])
            gradients.append([parameter.grad for parameter in model.parameters()])
        assert len(found[0]) == 4
        assert_close(found[0], found[1], "identical")
        assert_close(gradients[0], gradients[1], "identical")

    def test_one_relu_module_used_three_times_is_read_at_its_last_use(self) -> None:
        pairs = pair_stages(torchvision_resnet(2, 16), torchvision_resnet(1, 8), None, None)
        assert [(teacher.path, student.path) for teacher, student in pairs] == [
            ("layer1.1.relu", "layer1.0.relu"),
            ("layer2.1.relu", "layer2.0.relu"),
            ("layer3.1.relu", "layer3.0.relu"),
            ("layer4.0.relu", "layer4.0.relu"),
        ]

    def test_of_many_equal_layers_four_are_taken_evenly(self) -> None:
        pairs = pair_stages(timm_vit(12, 16), timm_vit(6, 16), None, None)
        assert [str(teacher).partition(" ")[0] for teacher, _ in pairs] == [
            "blocks.3.norm1",
            "blocks.6.norm1",
            "blocks.9.norm1",
            "norm",
        ]
        assert [student.path for _, student in pairs] == ["blocks.1.norm1", "blocks.3.norm1", "blocks.4.norm1", "norm"]

    def test_leave_modes_statistics_and_random_numbers_alone(self) -> None:
        teacher, student = torchvision_resnet(1, 16), torchvision_resnet(1, 8)
        student.layer1.eval()
        modes = [module.training for module in student.modules()]
        state, random = copy.deepcopy(student.state_dict()), torch.random.get_rng_state()
        pair_stages(teacher, student, None, None)
        assert torch.random.get_rng_state().equal(random)
        assert [module.training for module in student.modules()] == modes
        assert_close(dict(student.state_dict()), dict(state), "identical")
        assert not hooks(teacher, student)


class TestResolutions:
    """The facts about a residual network of four stages with one block each, on images of 64 x 64 pixels."""

    @pytest.fixture
    def made(self) -> Trace:
        return trace(timm_resnet(8, 8, 8, 16).eval(), images(64))

    @pytest.fixture
    def resolutions(self, made: Trace) -> Resolutions:
        return Resolutions(steps_of(made), {call.path for call in made.calls if call.module.state_dict()})

    def test_calls_that_reduce_are_the_outermost_ones(self, resolutions: Resolutions) -> None:
        assert [(step.call.path, step.before, step.after) for step in resolutions.reducing] == [
            ("conv1.0", 64**2, 32**2),
            ("maxpool", 32**2, 16**2),
            ("layer2.0", 16**2, 8**2),
            ("layer3.0", 8**2, 4**2),
            ("layer4.0", 4**2, 2**2),
        ]

    def test_ends_are_the_inputs_of_these_and_the_output_of_the_last_block(
        self, made: Trace, resolutions: Resolutions
    ) -> None:
        outputs = {call.path: call.output for call in made.calls}
        expected = [made.calls[0].input, *(outputs[name] for name in ("act1", "layer1", "layer2", "layer3", "layer4"))]
        assert list(resolutions.ends.values()) == expected

    def test_the_first_stage_keeps_its_resolution_and_the_others_start_at_theirs(
        self, made: Trace, resolutions: Resolutions
    ) -> None:
        assert resolutions.kept == {16**2}
        assert resolutions.started(made.calls[0].input) == {8**2, 4**2, 2**2}

    def test_a_block_that_reads_the_models_input_starts_no_stage(self, resolutions: Resolutions) -> None:
        entered = resolutions.reducing[2].call.input
        assert resolutions.started(entered) == {4**2, 2**2}

    def test_calls_that_keep_a_resolution(self, resolutions: Resolutions) -> None:
        paths = {step.call.path for step in resolutions.keeping}
        assert {"layer1", "layer1.0", "layer2.0.conv2"} <= paths
        assert not paths & {"layer2", "layer2.0", "act1", "fc"}


class Functional(nn.Module):
    """A residual network whose ReLU is a function of a sum, so that no module sees the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.convs = nn.ModuleList(nn.Conv2d(8, 8, 3, stride, 1) for stride in (1, 2, 1))
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(3))
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            branch = norm(conv(x))
            x = F.relu(branch + x[:, :, :: conv.stride[0], :: conv.stride[0]])
        return self.head(x.mean((2, 3)))


class TestErrors:
    def test_stages_that_differ_in_number_or_resolution_name_both_lists(self) -> None:
        with pytest.raises(
            ModelError, match=r"do not match.*Teacher: .*norm.*16 x 16.*Student: .*layer1\.0\.act2.*8 x 8"
        ):
            OFD(WideResNet(10, 1), timm_resnet(8, 8, 8, 16))
        four, three = timm_resnet(8, 8, 8, 16), hf_resnet(1, 8)
        with pytest.raises(ModelError, match=r"Teacher: .*layer4.*Student: .*encoder\.stages\.2"):
            OFD(four, three)
        with pytest.raises(ModelError, match=r"Teacher: .*2 x 2.*Student: .*4 x 4"):
            OFD(four, timm_resnet(8, 8, 8, 16), layers=[("layer4", "layer3")])
        assert not hooks(four, three)

    @pytest.mark.parametrize("method", [OFD, SRRL])
    def test_a_wrong_name_says_what_comes_close(self, method: type[OFD | SRRL]) -> None:
        teacher, student = timm_resnet(8, 8, 8, 16), timm_resnet(8, 8, 8, 8)
        with pytest.raises(ModelError, match=r"'layer5' is no layer of the teacher, ResNet; did you mean .*'layer4'"):
            method(teacher, student, layers=["layer5"])
        with pytest.raises(ModelError, match=r"'layr4' is no layer of the student, ResNet; did you mean 'layer4'"):
            method(teacher, student, layers=[("layer4", "layr4")])
        with pytest.raises(ConfigError, match="layers must be a list of names or of pairs of names, not 'layer4'"):
            method(teacher, student, layers="layer4")
        with pytest.raises(ConfigError, match=r"not \[\('layer4', 'layer4', 'layer4'\)\]"):
            method(teacher, student, layers=[("layer4", "layer4", "layer4")])
        with pytest.raises(ModelError, match="'head' is no layer of the teacher"):
            SRRL(teacher, student, classifier="head")
        assert not hooks(teacher, student)

    def test_a_relu_that_no_module_sees(self) -> None:
        teacher, student = Functional(), Functional()
        with pytest.raises(ModelError, match=r"of Functional ends in a ReLU that is used as a function.*nn\.ReLU"):
            OFD(teacher, student)
        assert not hooks(teacher, student)

    def test_a_margin_without_a_norm(self) -> None:
        with pytest.raises(ModelError, match=r"margin .* none before stages\.0.*SRRL or KD"):
            OFD(*(timm.create_model("nf_resnet26", num_classes=CLASSES) for _ in range(2)))

    def test_a_classifier_that_is_not_linear(self) -> None:
        teacher, student = nn.Sequential(nn.Linear(8, 4), nn.PReLU(4)), nn.Linear(8, 4)
        with pytest.raises(ModelError, match=r"layers=, or another classifier=|is no linear classifier"):
            SRRL(teacher, student, classifier="1")

    @pytest.mark.parametrize("build", [lambda: timm_resnet(8, 8, 8, 16), lambda: timm_vit(2, 16)])
    def test_srrl_of_a_model_without_a_head(self, build: Callable[[], Any]) -> None:
        teacher, student = build(), build()
        teacher.reset_classifier(0)
        with pytest.raises(ModelError, match=r"no layer of the teacher, \w+, makes logits: .* classifier="):
            SRRL(teacher, student)
        with pytest.raises(ModelError, match=r"no layer of the student, \w+, makes logits: .* layers="):
            SRRL(student, teacher)
        assert not hooks(teacher, student)

    def test_srrl_takes_one_layer_of_the_classifiers_channels(self) -> None:
        teacher, student = WideResNet(10, 0.5), WideResNet(10, 0.25)
        with pytest.raises(ModelError, match="2 are named"):
            SRRL(teacher, student, layers=["norm", "relu"])
        with pytest.raises(ModelError, match=r"classifier head reads 32 channels, and its feature is stem"):
            SRRL(teacher, student, layers=["stem"])

    def test_an_example_that_a_model_does_not_take(self) -> None:
        with pytest.raises(ModelError, match=r"GPT2LMHeadModel fails on an example input .*example="):
            OFD(WideResNet(10, 0.5), gpt2(2, 16))
        with pytest.raises(ModelError, match="give a batch as example="):
            OFD(nn.Identity(), nn.Identity())

    def test_one_model_as_both(self) -> None:
        model = WideResNet(10, 0.25)
        with pytest.raises(ModelError, match=r"one WideResNet.*deepcopy"):
            KD(model, model)

    @pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
    def test_a_temperature_that_is_not_positive(self, temperature: float) -> None:
        with pytest.raises(shapeshift.ConfigError, match="temperature"):
            KD(nn.Linear(2, 2), nn.Linear(2, 2), temperature=temperature)

    def test_logits_that_cannot_be_compared(self) -> None:
        for classes, other, message in ((3, 4, r"\(2, 3\).*\(2, 4\)"), (1, 1, "several classes")):
            student = nn.Linear(4, other)
            distiller = KD(nn.Linear(4, classes), student)
            student(torch.ones(2, 4))
            with pytest.raises(ModelError, match=message):
                distiller(torch.ones(2, 4))


class TestLayersByName:
    def test_of_a_relu_what_enters_and_of_others_what_leaves(self) -> None:
        teacher, student, x = timm_resnet(8, 8, 8, 16), timm_resnet(8, 8, 8, 8), images(64)
        named = [f"layer{stage}" for stage in (1, 2, 3)] + [("layer4.0.act2", "layer4.0.act2")]
        losses = []
        for layers in (None, named):
            torch.manual_seed(2)
            with OFD(teacher, student.eval(), layers) as distiller:
                student(x)
                losses.append(distiller(x).detach())
                places = [(place.path, place.side) for place in distiller._teacher_recorder.features]
        # What a stage returns is behind its ReLU; of a ReLU, what enters it is read.
        assert places == [
            ("layer1.0", "output"),
            ("layer2.0", "output"),
            ("layer3.0", "output"),
            ("layer4.0.act2", "input"),
        ]
        assert losses[0] != losses[1]

        relus = ["layer1.0.act2", "layer2.0.act2", "layer3.0.act3", "layer4.0.act2"]
        torch.manual_seed(2)
        with OFD(teacher, student.eval(), relus) as distiller:
            student(x)
            assert_close(distiller(x).detach(), losses[0], "identical")

    def test_srrl_reads_the_layer_and_the_classifier_that_are_named(self) -> None:
        teacher, student, x = WideResNet(10, 0.5), WideResNet(10, 0.25), images()
        named = SRRL(teacher, student, [("pool", "norm")], "head")
        assert [named._teacher_recorder.features[0].path, named._student_recorder.features[0].path] == ["pool", "norm"]
        student(x)
        named(x).backward()
        assert student.head.weight.grad is None
        assert student.norm.weight.grad.any()
