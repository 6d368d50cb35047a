"""How published weights name what is in an encoder, and what has to be done to read one's names as another's.

A layout is recognised by a few keys. Where several programs publish the same encoder under different names, all are converted to
one of them: timm's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from einops import rearrange
from jaxtyping import Float
from torch import Tensor

State = dict[str, Tensor]

NO_PART_OF_ENCODERS = re.compile(
    # Classifiers, and what they alone read: the last norm, MobileNetV2's last convolution, norms that detectors put behind each stage
    r"(fc|fc_norm|head|head_dist|head_drop|classifier|pre_logits|norm|norm[0-3]|conv_head|bn2|features\.18)\."
    # What follows from the sizes of windows and images, and what only pretraining reads
    r"|(.*\.)?(relative_position_index|relative_coords_table|attn_mask)$|mask_token$"
)
"""Keys of published files, but not of an encoder, which may be left out without a word of warning."""
SLICES_IN_ORDER_OF_UNFOLD = [0, 2, 1, 3]
"""The four neighbours that a patch merging joins are counted down the columns by slices, and along the rows by unfolding."""


@dataclass(frozen=True)
class Layout:
    """What one program calls the weights of one encoder."""

    publisher: str
    encoder: str
    keys: tuple[str, ...]
    """All of these are there, and in no later layout of the list."""
    convert: Callable[[State], State] | None = dict
    """Makes timm's layout of it; None where nobody has written that down yet."""

    @property
    def name(self) -> str:
        return f"{self.encoder} in {self.publisher}'s layout"


def _slices_from_unfolded(joined: Float[Tensor, "*rows channels"]) -> Float[Tensor, "*rows channels"]:
    """Reorder the channels that a patch merging has joined: from each channel's four neighbours, row by row, to all channels of each
    neighbour, column by column.
    """
    by_neighbour = rearrange(joined, "... (channel neighbour) -> ... neighbour channel", neighbour=4)
    return rearrange(by_neighbour[..., SLICES_IN_ORDER_OF_UNFOLD, :], "... neighbour channel -> ... (neighbour channel)")


def _at_start_of_next_stage(state: State) -> State:
    """Count a merging of patches to the stage that it leads into, as timm does since 0.9, instead of to the one before."""
    return {
        re.sub(r"^layers\.(\d+)\.downsample\.", lambda match: f"layers.{int(match[1]) + 1}.downsample.", key): value
        for key, value in state.items()
    }


def _from_torchvision_swin(state: State) -> State:
    """Even numbers of torchvision's `features` are mergings, odd ones stages; number 0 makes the patches."""

    def rename(match: re.Match[str]) -> str:
        number = int(match[1])
        return f"layers.{(number - 1) // 2}.blocks." if number % 2 else f"layers.{number // 2}.downsample."

    renamed = {}
    for key, value in state.items():
        name = re.sub(r"^features\.0\.0\.", "patch_embed.proj.", key)
        name = re.sub(r"^features\.0\.2\.", "patch_embed.norm.", name)
        name = re.sub(r"^features\.(\d+)\.", rename, name)
        renamed[re.sub(r"\.mlp\.([03])\.", lambda match: f".mlp.fc{1 if match[1] == '0' else 2}.", name)] = value
    return renamed


def _from_mmdetection_swin(state: State) -> State:
    renamed = {}
    for key, value in state.items():
        name = (
            re.sub(r"^stages\.", "layers.", key).replace("patch_embed.projection.", "patch_embed.proj.").replace(".attn.w_msa.", ".attn.")
        )
        name = name.replace(".ffn.layers.0.0.", ".mlp.fc1.").replace(".ffn.layers.1.", ".mlp.fc2.")
        renamed[name] = _slices_from_unfolded(value) if ".downsample." in name else value
    return _at_start_of_next_stage(renamed)


SWIN_TABLE = "attn.relative_position_bias_table"
MMDETECTION_TABLE = "attn.w_msa.relative_position_bias_table"
LAYOUTS = (
    Layout("torchvision", "ResNet", ("conv1.weight", "layer1.0.conv1.weight")),
    Layout("torchvision", "MobileNetV2", ("features.0.0.weight", "features.1.conv.0.0.weight")),
    Layout("timm", "EfficientNet", ("conv_stem.weight", "blocks.0.0.conv_dw.weight")),
    # Before timm's: theirs has mergings of the first stage, and those of later ones under the same names
    Layout("its authors", "Swin", (f"layers.0.blocks.0.{SWIN_TABLE}", "layers.0.downsample.reduction.weight"), _at_start_of_next_stage),
    Layout("timm", "Swin", (f"layers.0.blocks.0.{SWIN_TABLE}", "layers.1.downsample.reduction.weight")),
    Layout("torchvision", "Swin", ("features.0.0.weight", f"features.1.0.{SWIN_TABLE}"), _from_torchvision_swin),
    Layout("mmdetection", "Swin", ("patch_embed.projection.weight", f"stages.0.blocks.0.{MMDETECTION_TABLE}"), _from_mmdetection_swin),
    Layout("its authors", "Swin V2", ("layers.0.blocks.0.attn.logit_scale", "layers.0.downsample.reduction.weight"), None),
    Layout("timm", "Swin V2", ("layers.0.blocks.0.attn.logit_scale", "layers.1.downsample.reduction.weight")),
    Layout("torchvision", "Swin V2", ("features.1.0.attn.logit_scale",), None),
    Layout("its authors", "ConvNeXt", ("downsample_layers.0.0.weight", "stages.0.0.dwconv.weight"), None),
    Layout("timm", "ConvNeXt", ("stem.0.weight", "stages.0.blocks.0.conv_dw.weight")),
    Layout("torchvision", "ConvNeXt", ("features.0.0.weight", "features.1.0.block.0.weight"), None),
    Layout("its authors", "ViT with registers", ("register_tokens", "blocks.0.attn.qkv.weight"), None),
    Layout("timm", "ViT with registers", ("reg_token", "blocks.0.attn.qkv.weight")),
    Layout("timm", "ViT", ("cls_token", "pos_embed", "blocks.0.attn.qkv.weight")),
)
"""The first that fits counts."""


def recognise(keys: Collection[str]) -> Layout | None:
    """Return the layout that has such keys, if it is a known one."""
    return next((layout for layout in LAYOUTS if all(key in keys for key in layout.keys)), None)


PREFIXES = ("module.", "model.", "network.", "img_backbone.", "backbone.")
"""Under which an encoder's weights stand in the state of what contains it: wrappers, and whole detectors."""


def inside_prefixes(state: Mapping[str, Tensor]) -> tuple[State, list[str]]:
    """Return the weights under the known prefixes, without them, and the keys of all that stands beside."""
    others: list[str] = []
    inside = dict(state)
    while prefix := next((prefix for prefix in PREFIXES if any(key.startswith(prefix) for key in inside)), None):
        others += [key for key in inside if not key.startswith(prefix)]
        inside = {key.removeprefix(prefix): value for key, value in inside.items() if key.startswith(prefix)}
    return inside, others
