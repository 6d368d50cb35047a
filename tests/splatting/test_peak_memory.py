"""Memory at its peak, measured in a process of its own. Nothing else is imported here, because that process imports it, too."""

from __future__ import annotations

from collections.abc import Callable

import torch

from splattingocc.splatting import peak_memory

MIB = 2**20


def forty_megabytes_for_a_moment(inputs: int) -> Callable[[], int]:
    """Return what takes 40 MiB and gives them back, and makes a gradient of 8, after `inputs` MiB that are there before."""
    kept = [torch.ones(inputs * MIB // 4)]

    def measured() -> int:
        kept.append(torch.ones(8 * MIB // 4))
        taken = torch.ones(40 * MIB // 4)
        del taken
        return kept[-1].nbytes

    return measured


def test_a_peak_is_what_was_taken_meanwhile_without_gradients_and_inputs():
    found = peak_memory.peak_beyond(forty_megabytes_for_a_moment, 30)
    assert found is None or 37 <= found <= 43
