"""Which cells of a key frame the page's viewer may show, and how they travel: a few bits for each, sorted and deflated.

A cell travels where one of its six neighbours looks otherwise in one of the views; what is enclosed by its like is never seen, whichever
classes are hidden.
"""

from __future__ import annotations

import zlib
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from splattingocc.data.occ3d import OccupancyTruth
from splattingocc.taxonomy import FREE

ERRORS: Final = ("right", "missed", "false", "confused", "not judged")
"""What a cell of the prediction is beside the truth: its class; free where something is; something where it is free; another class;
outside of mask_camera, where no truth was seen."""
RIGHT, MISSED, FALSE, CONFUSED, NOT_JUDGED = range(len(ERRORS))
NOTHING: Final = 255
"""Of a view: nothing to draw."""
SEEN: Final = 32
"""Added to the class of truth that a camera sees, which looks otherwise than truth that none does."""
TRUTH_SHIFT, SEEN_SHIFT, PREDICTION_SHOWS, TRUTH_SHOWS, ERROR_SHOWS = 5, 10, 11, 12, 13
"""Bits of a cell's code, as `viewer.js` reads them: 0 to 4 hold the predicted class, 5 to 9 the true one, 10 whether a camera sees it, the
others in which views it shows."""


def errors(semantics: UInt8[Tensor, "x y z"], truth: OccupancyTruth) -> UInt8[Tensor, "x y z"]:
    """Return an index of ERRORS for each cell, NOTHING where there is nothing to draw: free, and rightly so, or not judged."""
    found = torch.full_like(semantics, NOTHING)
    predicted, true, seen = semantics != FREE, truth.semantics != FREE, truth.mask_camera
    found[predicted & ~seen] = NOT_JUDGED
    found[seen & true & ~predicted] = MISSED
    found[seen & ~true & predicted] = FALSE
    found[seen & true & predicted] = CONFUSED
    found[seen & true & (semantics == truth.semantics)] = RIGHT
    return found


def exposed(looks: UInt8[Tensor, "x y z"]) -> Bool[Tensor, "x y z"]:
    """Return where there is something to draw that is not enclosed by its like; the grid's border encloses nothing."""
    padded = torch.nn.functional.pad(looks, (1,) * 6, value=NOTHING)
    shows = torch.zeros_like(looks, dtype=torch.bool)
    for axis in range(3):
        for start in (0, 2):
            window = [slice(1, -1)] * 3
            window[axis] = slice(start, start + looks.shape[axis])
            shows |= padded[tuple(window)] != looks
    return shows & (looks != NOTHING)


def pack_cells(semantics: UInt8[Tensor, "x y z"], truth: OccupancyTruth | None) -> bytes:
    """Return the deflated cells of a key frame: bytes 0 to 3 of all steps from a cell's flat index to the next one's, then bytes 0 and 1
    of all codes."""
    codes = semantics.int()
    codes += _bit(_looks(semantics), PREDICTION_SHOWS)
    if truth is None:
        codes += FREE << TRUTH_SHIFT
    else:
        codes += (truth.semantics.int() << TRUTH_SHIFT) + (truth.mask_camera.int() << SEEN_SHIFT)
        codes += _bit(_looks(truth.semantics, truth.mask_camera), TRUTH_SHOWS) + _bit(errors(semantics, truth), ERROR_SHOWS)
    indices = (codes >> PREDICTION_SHOWS).flatten().nonzero().flatten()
    steps = np.diff(indices.numpy(), prepend=0).astype("<u4")
    return deflated(steps, codes.flatten()[indices].numpy().astype("<u2"))


def _looks(semantics: UInt8[Tensor, "x y z"], seen: Bool[Tensor, "x y z"] | None = None) -> UInt8[Tensor, "x y z"]:
    looks = semantics if seen is None else semantics + SEEN * seen.to(torch.uint8)
    return torch.where(semantics == FREE, torch.full_like(semantics, NOTHING), looks)


def _bit(looks: UInt8[Tensor, "x y z"], bit: int) -> Tensor:
    return exposed(looks).int() << bit


def deflated(*columns: np.ndarray) -> bytes:
    """Return columns of numbers as planes of bytes, lowest byte first, deflated: like bytes side by side become small."""
    planes = [np.ascontiguousarray(column).view(np.uint8).reshape(len(column), column.itemsize).T.tobytes() for column in columns]
    return zlib.compress(b"".join(planes), 9)


def counts_of(looks: UInt8[Tensor, "x y z"], num: int) -> list[int]:
    """Return how many cells there are of each of `num` kinds, whether they show or not."""
    return torch.bincount(looks.flatten().long(), minlength=NOTHING + 1)[:num].tolist()
