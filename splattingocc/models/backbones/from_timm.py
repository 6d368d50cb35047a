"""Encoders of the library timm, which is needed only where one is asked for."""

from __future__ import annotations

import difflib
import importlib
import re
from functools import partial
from typing import Annotated, Any, Literal

import torch
from einops import rearrange
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from splattingocc.models.backbones.normalization import Normalization
from splattingocc.models.backbones.weights import WeightsConfig, load_weights
from splattingocc.models.interfaces import Backbone

STRIDES = (4, 8, 16, 32)
"""Of the results of every encoder."""
OPTIONS = {
    # Images of any size; windows are always whole and always shifted, as where Swin serves detection
    "swin_transformer": {"strict_img_size": False, "always_partition": True},
    "swin_transformer_v2": {"strict_img_size": False, "always_partition": True},
    # Images of any size, for which position embeddings are resampled
    "vision_transformer": {"dynamic_img_size": True},
    "deit": {"dynamic_img_size": True},
    "eva": {"dynamic_img_size": True},
}
"""What encoders have to be told, by the module of timm's that they come from."""


class TimmConfig(WeightsConfig):
    """An encoder of the library timm (`pip install splattingocc[backbones]`), without its classifier; nothing is ever downloaded.

    It has features at 1/4, 1/8, 1/16 and 1/32, or is a plain ViT: then its image is resized so that one patch stands for 16 pixels, and
    the features after a quarter, half, three quarters and all of its blocks are resampled to the four sizes, in this order.
    Images are padded to multiples of 32 pixels, and the features cropped again.
    """

    kind: Literal["timm"] = "timm"
    name: Annotated[str, Field(pattern=r"^[a-z0-9_]+(\.[a-z0-9_]+)?$", max_length=100)] = "convnext_tiny"
    """Name of the encoder as in `timm.list_models()`, e.g. swin_base_patch4_window12_384, vit_small_patch14_dinov2."""


def import_timm() -> Any:
    """Return the library; `ValueError` says what to install where it cannot be imported."""
    try:
        return importlib.import_module("timm")
    except ModuleNotFoundError as error:
        raise ValueError(f"encoders of kind timm need {error.name}, which is not installed: pip install splattingocc[backbones]") from error
    # A torchvision that was not built for this torch fails with errors of several types
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        raise ValueError(
            f"timm cannot be imported ({error}): install the torchvision that belongs to torch {torch.__version__}, "
            "then pip install splattingocc[backbones]"
        ) from error


class TimmBackbone(Backbone):
    """Features of an image at 1/4, 1/8, 1/16 and 1/32 of its size from an encoder of timm's. It draws nothing at random: no layer or value
    is dropped in training.
    """

    def __init__(self, config: TimmConfig) -> None:
        super().__init__()
        self.name = config.name
        self.encoder, self.patch_size = _build(config.name)
        _drop_nothing(self.encoder)
        _pad_before_shifting(self.encoder)
        layout = getattr(self.encoder, "output_fmt", "NCHW")  # an enumeration, or text
        self.is_channels_last = getattr(layout, "value", layout) == "NHWC"
        self.out_channels = tuple(self.encoder.feature_info.channels())  # type: ignore[operator,union-attr]
        taught_with: dict[str, Any] = self.encoder.pretrained_cfg  # type: ignore[assignment]
        self.normalize = Normalization(taught_with["mean"], taught_with["std"])
        self.loaded = load_weights(self.encoder, config, published_names(self.encoder))

    def stages(self) -> list[nn.Module]:
        """Return the blocks, where the encoder has them in rows, as timm's transformers and ConvNeXts do."""
        rows = [module for name, module in self.encoder.named_modules() if name.rpartition(".")[2] == "blocks"]
        return [block for row in rows for block in row.children()] or [self]

    def forward(self, images: Float[Tensor, "image 3 height width"]) -> list[Tensor]:
        height, width = images.shape[-2:]
        padded = functional.pad(self.normalize(images), (0, -width % STRIDES[-1], 0, -height % STRIDES[-1]))
        try:
            levels = self.encoder(padded) if self.patch_size is None else self._of_patches(padded, self.patch_size)
        except (AssertionError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "shape" not in str(error):
                raise  # of the device, which says nothing of the image
            raise ValueError(f"network.backbone.name: timm's {self.name} takes no images of {height} × {width} pixels ({error})") from error
        if self.is_channels_last:
            levels = [rearrange(level, "image height width channel -> image channel height width") for level in levels]
        return [level[..., : -(-height // stride), : -(-width // stride)].contiguous() for level, stride in zip(levels, STRIDES)]

    def _of_patches(self, images: Tensor, patch_size: int) -> list[Tensor]:
        """Return features of a plain ViT's patches, resampled to the four strides."""
        stride = min(STRIDES[1:], key=lambda candidate: abs(candidate - patch_size))
        height, width = (side // stride * patch_size for side in images.shape[-2:])
        if (height, width) != images.shape[-2:]:
            images = functional.interpolate(images, (height, width), mode="bilinear", align_corners=False, antialias=True)
        return [_resampled(level, stride / wanted) for level, wanted in zip(self.encoder(images), STRIDES)]


def _resampled(features: Tensor, scale: float) -> Tensor:
    if scale < 1:
        return functional.avg_pool2d(features, round(1 / scale))
    return features if scale == 1 else functional.interpolate(features, scale_factor=scale, mode="bilinear", align_corners=False)


def _build(name: str) -> tuple[nn.Module, int | None]:
    """Return an encoder that gives four features, and where it is a plain ViT the size of its patches."""
    timm = import_timm()
    architecture = name.split(".")[0]
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=3)
        meant = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"network.backbone.name: timm {timm.__version__} has no {architecture}{meant}")
    module = timm.models.model_entrypoint(architecture).__module__.rpartition(".")[2]
    options = {"pretrained": False, "features_only": True, **OPTIONS.get(module, {})}
    try:
        encoder = timm.create_model(name, **options)
    except (RuntimeError, AttributeError, AssertionError, TypeError) as error:
        raise ValueError(f"network.backbone.name: timm's {name} does not give features of its stages ({error})") from error
    strides = [info["reduction"] for info in encoder.feature_info.info]
    if len(set(strides)) == 1 and len(strides) >= len(STRIDES):
        positions = [len(strides) * quarter // 4 - 1 for quarter in range(1, 5)]
        return timm.create_model(name, **options, out_indices=positions), strides[0]
    if not set(STRIDES) <= set(strides):
        has = ", ".join(f"1/{stride}" for stride in sorted(set(strides)))
        raise ValueError(f"network.backbone.name: timm's {name} has features at {has}, expected 1/4, 1/8, 1/16 and 1/32 among them")
    positions = [len(strides) - 1 - strides[::-1].index(stride) for stride in STRIDES]
    if positions != list(encoder.feature_info.out_indices):
        encoder = timm.create_model(name, **options, out_indices=positions)
    return encoder, None


def published_names(encoder: nn.Module) -> dict[str, str]:
    """Return the names that timm publishes an encoder's weights under, by those they have here.

    Where only features are asked for, timm puts a plain ViT into `model`, and writes `layers_0.` for the `layers.0.` of other encoders.
    """
    return {key: re.sub(r"^([a-z]\w*?)_(\d+)\.", r"\1.\2.", key.removeprefix("model.")) for key in encoder.state_dict()}


def _drop_nothing(encoder: nn.Module) -> None:
    """Keep every path and value in training: a run that was interrupted must go on as one that was not."""
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(getattr(module, "drop_prob", None), float):
            module.drop_prob = 0.0  # type: ignore[assignment]


def _pad_before_shifting(encoder: nn.Module) -> None:
    """Let Swin pad to whole windows and shift them then, as every other program does.

    timm shifts first, which puts the padding between the image's ends instead of behind them; its mask does not know. Where the windows
    divide the image that is the same, but a Swin-B's do not divide 512 × 1408 pixels.
    """
    swin_block = importlib.import_module("timm.models.swin_transformer").SwinTransformerBlock
    for module in encoder.modules():
        if isinstance(module, swin_block):
            module._attn = partial(_attend_in_windows, module)  # type: ignore[assignment]


def _attend_in_windows(block: Any, tokens: Float[Tensor, "image height width channel"]) -> Float[Tensor, "image height width channel"]:
    height, width = tokens.shape[1:3]
    (window_height, window_width), shift = block.window_size, block.shift_size
    tokens = functional.pad(tokens, (0, 0, 0, -width % window_width, 0, -height % window_height))
    tokens = tokens.roll((-shift[0], -shift[1]), dims=(1, 2))
    windows = rearrange(tokens, "b (i h) (j w) c -> (b i j) (h w) c", h=window_height, w=window_width)
    windows = block.attn(windows, mask=block.get_attn_mask(tokens))
    rows, columns = tokens.shape[1] // window_height, tokens.shape[2] // window_width
    tokens = rearrange(windows, "(b i j) (h w) c -> b (i h) (j w) c", i=rows, j=columns, h=window_height)
    return tokens.roll(shift, dims=(1, 2))[:, :height, :width]
