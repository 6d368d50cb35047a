"""What earlier frames add to the volume."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from splattingocc.config import Config


class TemporalConfig(Config):
    """Earlier frames whose volumes are fused with the newest one's."""

    frames: Annotated[int, Field(ge=0, le=16)] = 0
    """How many. Each is read without gradients and lifted into the newest frame's grid by its own cameras, and needs one of
    `data.loader.previous_frames`."""


class TemporalFusion(nn.Module):
    """Mix the volumes of several frames into one of the same width: before training the newest one alone."""

    def __init__(self, config: TemporalConfig, channels: int) -> None:
        super().__init__()
        self.mix = nn.Conv3d((1 + config.frames) * channels, channels, 1)
        nn.init.zeros_(self.mix.weight)
        assert self.mix.bias is not None
        nn.init.zeros_(self.mix.bias)

    def forward(
        self, volume: Float[Tensor, "batch channel x y z"], earlier: Sequence[Float[Tensor, "batch channel x y z"]]
    ) -> Float[Tensor, "batch channel x y z"]:
        """Return the mixture; all volumes are of the newest frame's grid, the earlier ones from newer to older."""
        # Added to the newest one, so that weight decay leads back to it and not to nothing
        return volume + self.mix(torch.cat([volume, *earlier], dim=1))
