"""Layouts of published weights, by keys that were made up exactly as published files have them."""

import pytest
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from splattingocc.models.backbones.layouts import NO_PART_OF_ENCODERS, inside_prefixes, recognise

WIDTH = 4
BLOCK_OF_TIMM = {
    "norm1.weight": (WIDTH,),
    "attn.qkv.weight": (3 * WIDTH, WIDTH),
    "attn.relative_position_bias_table": (9, 2),
    "mlp.fc1.weight": (4 * WIDTH, WIDTH),
    "mlp.fc2.bias": (WIDTH,),
}
NAMES_IN_A_BLOCK = {
    "timm": {name: name for name in BLOCK_OF_TIMM},
    "torchvision": {
        "norm1.weight": "norm1.weight",
        "attn.qkv.weight": "attn.qkv.weight",
        "attn.relative_position_bias_table": "attn.relative_position_bias_table",
        "mlp.fc1.weight": "mlp.0.weight",
        "mlp.fc2.bias": "mlp.3.bias",
    },
    "mmdetection": {
        "norm1.weight": "norm1.weight",
        "attn.qkv.weight": "attn.w_msa.qkv.weight",
        "attn.relative_position_bias_table": "attn.w_msa.relative_position_bias_table",
        "mlp.fc1.weight": "ffn.layers.0.0.weight",
        "mlp.fc2.bias": "ffn.layers.1.bias",
    },
}


def swin_keys(publisher: str) -> set[str]:
    """Return the keys of a Swin of two stages with a block each."""
    block = {"torchvision": "features.{}.0.", "mmdetection": "stages.{}.blocks.0."}.get(publisher, "layers.{}.blocks.0.")
    first = {
        "torchvision": {"features.0.0.weight", "features.0.2.bias"},
        "mmdetection": {"patch_embed.projection.weight", "patch_embed.norm.bias"},
    }.get(publisher, {"patch_embed.proj.weight", "patch_embed.norm.bias"})
    merging = {
        "timm": "layers.1.downsample.",
        "its authors": "layers.0.downsample.",
        "torchvision": "features.2.",
        "mmdetection": "stages.0.downsample.",
    }
    stages = (1, 3) if publisher == "torchvision" else (0, 1)
    names = NAMES_IN_A_BLOCK.get(publisher, NAMES_IN_A_BLOCK["timm"])
    inside = {block.format(stage) + names[name] for stage in stages for name in BLOCK_OF_TIMM}
    return inside | first | {merging[publisher] + "norm.weight", merging[publisher] + "reduction.weight"}


@pytest.mark.parametrize("publisher", ["timm", "its authors", "torchvision", "mmdetection"])
def test_a_swin_of_every_publisher_is_recognised_and_gets_timms_names(publisher: str):
    keys = swin_keys(publisher)
    layout = recognise(keys)
    assert layout is not None
    assert (layout.publisher, layout.encoder) == (publisher, "Swin")
    assert layout.convert is not None
    assert set(layout.convert({key: torch.zeros(8, 16) for key in keys})) == swin_keys("timm")


def test_mergings_by_unfolding_and_by_slices_give_the_same_after_the_channels_are_reordered():
    torch.manual_seed(0)
    image = torch.randn(1, WIDTH, 6, 8)
    norm, reduction = nn.LayerNorm(4 * WIDTH), nn.Linear(4 * WIDTH, 2 * WIDTH, bias=False)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    # What mmdetection does: all four neighbours of the first channel, then those of the second …
    unfolded = rearrange(nn.Unfold(2, stride=2)(image), "b joined (h w) -> b h w joined", h=3)
    expected = reduction(norm(unfolded))
    # What the others do: all channels of the upper left neighbour, then those of the lower left one …
    sliced = torch.cat([image[:, :, 0::2, 0::2], image[:, :, 1::2, 0::2], image[:, :, 0::2, 1::2], image[:, :, 1::2, 1::2]], dim=1)
    layout = recognise(swin_keys("mmdetection"))
    assert layout is not None
    assert layout.convert is not None
    written = {"norm.weight": norm.weight, "norm.bias": norm.bias, "reduction.weight": reduction.weight}
    converted = layout.convert({f"stages.0.downsample.{key}": value for key, value in written.items()})
    own = {key.removeprefix("layers.1.downsample."): value for key, value in converted.items()}
    sliced = sliced.permute(0, 2, 3, 1)
    normed = functional.layer_norm(sliced, (4 * WIDTH,), own["norm.weight"], own["norm.bias"])
    torch.testing.assert_close(normed @ own["reduction.weight"].T, expected)
    assert not torch.allclose(reduction(norm(sliced)), expected)  # the order matters


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        ({"conv1.weight", "bn1.weight", "layer1.0.conv1.weight", "fc.weight"}, "ResNet in torchvision's layout"),
        ({"features.0.0.weight", "features.1.conv.0.0.weight", "classifier.1.weight"}, "MobileNetV2 in torchvision's layout"),
        ({"stem.0.weight", "stages.0.blocks.0.conv_dw.weight"}, "ConvNeXt in timm's layout"),
        ({"features.0.0.weight", "features.1.0.block.0.weight"}, "ConvNeXt in torchvision's layout"),
        ({"cls_token", "pos_embed", "mask_token", "blocks.0.attn.qkv.weight"}, "ViT in timm's layout"),
        ({"features.0.0.weight", "features.1.0.attn.logit_scale"}, "Swin V2 in torchvision's layout"),
    ],
)
def test_encoders_are_told_apart_by_a_few_keys(keys: set[str], name: str):
    layout = recognise(keys)
    assert layout is not None
    assert layout.name == name


def test_keys_of_nothing_known_are_no_layout():
    assert recognise({"conv1.weight", "fc.weight"}) is None


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "backbone.", "img_backbone.", "module.img_backbone.", "model.backbone."])
def test_an_encoder_is_found_under_every_prefix_and_what_stands_beside_is_told(prefix: str):
    inside = {"conv1.weight": torch.zeros(1), "layer1.0.conv1.weight": torch.ones(1)}
    state: dict[str, Tensor] = {prefix + key: value for key, value in inside.items()}
    if prefix:
        state["optimizer_of_another.weight"] = torch.zeros(1)
    found, others = inside_prefixes(state)
    assert found == inside
    assert others == (["optimizer_of_another.weight"] if prefix else [])


def test_classifiers_and_what_follows_from_sizes_are_no_part_of_encoders_but_their_stages_are():
    derived = "layers.0.blocks.1.attn.relative_position_index"
    assert all(NO_PART_OF_ENCODERS.match(key) for key in ("fc.weight", "head.fc.bias", "classifier.1.weight", "norm3.bias", derived))
    assert not any(NO_PART_OF_ENCODERS.match(key) for key in ("layer1.0.fc.weight", "features.1.conv.0.0.weight", "bn1.bias"))
