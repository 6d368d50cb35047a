"""Joint steps that learn from Occ3D's 3D truth, for a comparison: nothing that the package could import.

In place of all rendering, the opacity of each cell inside mask_camera is asked for what fills it (binary cross-entropy, a mean over those
cells), and its class where it is filled (cross-entropy, a mean over those). The losses of the image branch and the opacity prior stay:
they are no rendering.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn import functional

from splattingocc.data.key_frames import Index, camera_of
from splattingocc.data.occ3d import read_truth
from splattingocc.data.samples import TrainingSample
from splattingocc.engine.module import OccupancyModule
from splattingocc.experiment import ExperimentConfig
from splattingocc.geometry.cameras import Cameras
from splattingocc.geometry.transforms import invert_rigid
from splattingocc.geometry.voxel_grid import OCC3D_GRID
from splattingocc.losses.inputs import ImageInputs
from splattingocc.losses.objective import Losses
from splattingocc.models.cell_head import CellHead
from splattingocc.models.gaussian_head import GaussianHead
from splattingocc.splatting.field import Field
from splattingocc.taxonomy import FREE

OCCUPANCY_WEIGHT, CLASS_WEIGHT = 1.0, 1.0
"""Of the two losses on the truth."""
SMALLEST_PROBABILITY = 1e-6
MIRROR_TOLERANCE = 1e-3
"""By how much float32 may make a mirror of the ego frame look like no mirror."""


class TruthModule(OccupancyModule):
    """Learn the volume from 3D truth, alone or beside the rendered 2D labels; everything else as `OccupancyModule` does."""

    def __init__(self, module: OccupancyModule, config: ExperimentConfig, index: Index, *, renders: bool) -> None:
        """Take the place of a module that has just been built; `ValueError` for an experiment that truth does not fit."""
        super().__init__(module.network, module.objective, module.render_config, module.optimization)
        head = module.network.head
        assert isinstance(head, GaussianHead)
        if config.grid.voxels != OCC3D_GRID:
            raise ValueError("grid: is not Occ3D's, whose truth these steps learn from")
        if turn := config.data.loader.augment.max_rotation:
            raise ValueError(f"data.loader.augment.max_rotation is {turn}, expected 0: cells of truth can be mirrored, not turned")
        self.index, self.gts, self.renders = index, config.data.truth_folder, renders
        self.place_in_head = places_in(head)

    def _losses(self, sample: TrainingSample) -> Losses:
        if self.renders:
            inputs = self.render_labels(sample)
            field, parts = inputs.field, self.objective(inputs).parts
        else:
            output = self.network(sample.views)
            field, cameras = output.field, sample.views.cameras[:, 0]
            images = ImageInputs(reading=output.reading, rays=sample.rays, labels=sample.labels, cameras=cameras)
            parts = self.objective.on_images(images).parts
            if weight := self.objective.config.opacity_prior.weight:
                parts["opacity_prior"] = weight * field.mean_opacity.mean()
        return Losses(parts | self._truth_losses(field, sample))

    def _truth_losses(self, field: Field, sample: TrainingSample) -> dict[str, Tensor]:
        occupancy, classes = [], []
        for i, token in enumerate([sample.token] if isinstance(sample.token, str) else sample.token):
            key_frame = self.index[self.index.position_of(token)]
            camera = camera_of(key_frame.cameras[0], in_ego_of=key_frame)
            mirrors = mirrored_axes(sample.views.cameras[i, 0, 0], camera)
            truth = read_truth(self.gts, key_frame.scene, token)
            semantics, mask = (
                cells.flip(mirrors).flatten()[self.place_in_head].to(field.opacities.device)
                for cells in (truth.semantics, truth.mask_camera)
            )
            features: Tensor = field[i].features  # type: ignore[attr-defined]
            of_sample = truth_losses(field.opacities[i], features, semantics, mask)
            occupancy.append(of_sample[0])
            classes.append(of_sample[1])
        return {
            "truth_occupancy": OCCUPANCY_WEIGHT * torch.stack(occupancy).mean(),
            "truth_class": CLASS_WEIGHT * torch.stack(classes).mean(),
        }


def truth_losses(
    opacities: Float[Tensor, " cell"], classes: Float[Tensor, "cell class"], semantics: UInt8[Tensor, " cell"], mask: Bool[Tensor, " cell"]
) -> tuple[Tensor, Tensor]:
    """Return the binary cross-entropy of opacity over the cells of a mask, and that of the class over those of them that are filled."""
    filled = semantics != FREE
    of_cells = functional.binary_cross_entropy(opacities, filled.to(opacities), reduction="none")
    occupancy = (of_cells * mask).sum() / mask.sum().clamp(min=1)
    right = classes.gather(1, semantics.long().where(filled, 0)[:, None]).squeeze(1)
    nll = -right.clamp(min=SMALLEST_PROBABILITY).log()
    counted = filled & mask
    return occupancy, (nll * counted).sum() / counted.sum().clamp(min=1)


def mirrored_axes(seen: Cameras, original: Cameras) -> tuple[int, ...]:
    """Return the axes (0 for x, 1 for y) along which a sample's ego frame is mirrored, from a camera in it and in the key frame's own."""
    new_ego_from_ego = invert_rigid(seen.cam_from_ego) @ original.cam_from_ego.to(seen.cam_from_ego)
    signs = new_ego_from_ego.diagonal().sign()
    if (new_ego_from_ego - signs.diag()).abs().max() > MIRROR_TOLERANCE:
        raise ValueError("the sample's ego frame is not the key frame's or a mirror of it: truth does not fit")
    return tuple(axis for axis in (0, 1) if signs[axis] < 0)


def places_in(head: CellHead) -> Tensor:
    """Return, for each cell in the order of a head, which cell of the grid (x, y, z in order) it is."""
    place_of_cell = head.indices_of(OCC3D_GRID.centers(head.centers.device).reshape(-1, 3))
    return place_of_cell.argsort().cpu()
