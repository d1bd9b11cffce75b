"""The ends of the stages of a model, before their ReLU."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import transformers
from torch import nn

from shapeshift.distill.features import locate
from shapeshift.distill.pairs import pair_stages
from shapeshift.distill.recorder import Recorder
from shapeshift.distill.stages import Resolutions, before_activation, find_stages, steps_of
from shapeshift.distill.trace import Trace, trace
from shapeshift.networks.resnet import ResNet
from tests.models import loss_of
from tests.teachers import (
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
    # Its layers run on blocks of the map, of shape (N, blocks, positions, channels).
    "nest_tiny": ({"img_size": 64}, 64, 0),
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
    # A class token joins the positions of the last stage.
    "Pvt": (
        {"image_size": 64, "hidden_sizes": [8, 16, 24, 32], "num_attention_heads": [1] * 4, "depths": [1, 1, 1, 2]},
        64,
        [
            *(f"the input of pvt.encoder.patch_embeddings.{stage}" for stage in (1, 2, 3)),
            "pvt",
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
