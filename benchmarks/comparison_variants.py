"""What is compared: experiments that differ from a common one in a single part or loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from splattingocc.config import Config
from splattingocc.experiment import ExperimentConfig
from splattingocc.models.density_head import DensityHeadConfig
from splattingocc.models.gaussian_head import GaussianHeadConfig

Supervision = Literal["2D", "3D", "2D + 3D"]
"""What the joint steps learn from: rendered 2D labels, Occ3D's truth in their place, or both."""
TWINS, ABLATIONS = "Twins", "Ablations of learned Gaussians"
FIXED_SCALE = 0.1
"""Metres; the standard deviation that the system of 2024 did best with."""
WIDE_SCALE = 0.2
"""Metres; half a cell."""
LEFT_OUT = 1e-9
"""Weight of an image loss that the joint steps are to do without. Not 0, which the image phase before them could not have: Adam divides by
the gradients that it has seen there, so what has this weight moves nothing."""
IMAGE_LOSSES = ("depth_bins", "pixel_classes")
RENDERING_LOSSES = ("semantic", "distance", "line_of_sight", "empty", "distortion", "transmittance_entropy")
RAY_BUDGETS = (2_500, 10_000, 40_000)
CLASS_BALANCES = (0.0, 0.5, 1.0)
LABEL_FRAMES = (1, 3)


@dataclass(frozen=True)
class Variant:
    """One row of the comparison."""

    name: str
    """As `--variants` takes it."""
    title: str
    """As the table has it."""
    group: str
    """The table that it is in."""
    change: Callable[[ExperimentConfig], ExperimentConfig]
    """Makes its experiment of the common one."""
    supervision: Supervision = "2D"


def changed(config: Any, changes: Mapping[str, Any]) -> Any:
    """Return options with some changed, by dotted names: `{"data.loader.num_rays": 2500}`."""
    for name, value in changes.items():
        first, _, rest = name.partition(".")
        config = config.model_copy(update={first: changed(getattr(config, first), {rest: value}) if rest else value})
    return config


def _with(**changes: Any) -> Callable[[ExperimentConfig], ExperimentConfig]:
    """Return what changes options; two underscores stand for a dot."""
    return lambda config: changed(config, {name.replace("__", "."): value for name, value in changes.items()})


def _without(*losses: str, weight: float = 0.0) -> Callable[[ExperimentConfig], ExperimentConfig]:
    return lambda config: changed(config, {f"objective.{name}.weight": weight for name in losses})


def _with_head(**changes: Any) -> Callable[[ExperimentConfig], ExperimentConfig]:
    def change(config: ExperimentConfig) -> ExperimentConfig:
        head = config.network.head
        if not isinstance(head, GaussianHeadConfig):
            raise ValueError(f"network.head.kind is {head.kind}, expected gaussians: what is compared is made of them")
        return changed(config, {"network.head": head.model_copy(update=changes)})

    return change


def _with_density(config: ExperimentConfig) -> ExperimentConfig:
    """Return the experiment with a density that is sampled along rays in place of Gaussians."""
    head: Config = config.network.head
    shared = {name: getattr(head, name) for name in ("num_classes", "initial_opacity")}
    return changed(config, {"network.head": DensityHeadConfig(**shared)})


def _fixed(scale: float) -> Callable[[ExperimentConfig], ExperimentConfig]:
    """Return what makes every Gaussian a ball of this standard deviation in metres, at the middle of its cell."""
    return _with_head(learn_offsets=False, learn_scales=False, learn_rotations=False, initial_scale=scale)


def _from_truth(config: ExperimentConfig) -> ExperimentConfig:
    """Return the experiment whose volume learns nothing from 2D labels; the image losses and what is assumed of all space stay.

    Truth says whether a cell is filled, and nothing of where in it: its Gaussians are fixed.
    """
    return _all_cells(_without(*RENDERING_LOSSES, "query")(_fixed(FIXED_SCALE)(config)))


def _all_cells(config: ExperimentConfig) -> ExperimentConfig:
    """Truth asks all cells."""
    return changed(config, {"trainer.predict_all_cells": True})


def _ablations() -> Iterator[Variant]:
    one_by_one = ("semantic", "distance", "line_of_sight", "empty", "query", "opacity_prior")
    for loss in one_by_one:
        name = loss.replace("_", "-")
        yield Variant(f"without-{name}", f"without {loss.replace('_', ' ')}", ABLATIONS, _without(loss))
    title = "query asks the way down to labelled ground"
    yield Variant("query-to-ground", title, ABLATIONS, _with(objective__query__ground_clearance=0.0))
    yield Variant("without-pixels", "joint steps without pixels", ABLATIONS, _without(*IMAGE_LOSSES, weight=LEFT_OUT))
    yield Variant("query-only", "query only (and pixels)", ABLATIONS, _without(*RENDERING_LOSSES, "opacity_prior"))
    yield Variant("fixed-wide", f"fixed Gaussians, {WIDE_SCALE:g} m", ABLATIONS, _fixed(WIDE_SCALE))
    yield Variant(
        "scales-only", "scales learned, rotation and offsets not", ABLATIONS, _with_head(learn_offsets=False, learn_rotations=False)
    )
    yield Variant(
        "offsets-only", "offsets learned, scales and rotation not", ABLATIONS, _with_head(learn_scales=False, learn_rotations=False)
    )
    yield Variant("scales-fixed", "scales fixed", ABLATIONS, _with_head(learn_scales=False))
    yield Variant("rotation-fixed", "rotation fixed", ABLATIONS, _with_head(learn_rotations=False))
    yield Variant("offsets-off", "offsets off", ABLATIONS, _with_head(learn_offsets=False))
    for count in LABEL_FRAMES:
        title = "labels of the key frame alone" if count == 1 else f"labels of key frames ±{count // 2}"
        yield Variant(f"frames-{count}", title, ABLATIONS, _with(data__loader__label_frames=count))
    for balance in CLASS_BALANCES:
        yield Variant(f"balance-{balance:g}", f"class balance {balance:g}", ABLATIONS, _with(data__loader__class_balance=balance))
    for rays in RAY_BUDGETS:
        yield Variant(f"rays-{rays}", f"{rays:,} rays", ABLATIONS, _with(data__loader__num_rays=rays))


VARIANTS = {
    variant.name: variant
    for variant in (
        Variant("nerf", "NeRF sampling", TWINS, _with_density),
        Variant("fixed", f"fixed Gaussians, {FIXED_SCALE:g} m", TWINS, _fixed(FIXED_SCALE)),
        Variant("learned", "learned Gaussians", TWINS, lambda config: config),
        Variant("truth", "3D truth in place of rendering", TWINS, _from_truth, "3D"),
        Variant("learned-and-truth", "2D + 3D", TWINS, _all_cells, "2D + 3D"),
        *_ablations(),
    )
}
"""In the order of the tables."""
