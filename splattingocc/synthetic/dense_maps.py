"""Dense maps of class and metric depth beside each image, for `prepare --dense.*`.

They are in the form that `splattingocc.labels.dense` reads by default: classes of Occ3D with 254 for the sky, depth along the camera's axis
in 16-bit PNGs of 256 units per metre, 0 where there is none. What a foundation model would say in their place is in `dense_degradation.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from jaxtyping import Float, Float32, Int32, UInt8
from numpy import ndarray
from PIL import Image

from splattingocc.data.nuscenes_taxonomy import CLASS_OF_LIDARSEG
from splattingocc.files import naming_the_file
from splattingocc.synthetic.camera_images import VIEW_DISTANCE, pixel_rays
from splattingocc.synthetic.scene_mesh import SceneMesh
from splattingocc.taxonomy import SKY

DENSE_FOLDER = "dense"
DEPTH_SCALE = 256
"""Units of a depth map per metre."""


@dataclass(frozen=True)
class SeenSurfaces:
    """What each pixel of a camera sees."""

    semantics: UInt8[ndarray, "height width"]
    """Occ3D's class, SKY where there is nothing."""
    depths: Float32[ndarray, "height width"]
    """Metres along the camera's axis; 0 in the sky."""
    things: Int32[ndarray, "height width"]
    """Number of the annotated thing; −1 where there is none."""


@dataclass(frozen=True)
class DenseMaps:
    """What a source of labels says of each pixel of an image."""

    semantics: UInt8[ndarray, "height width"]
    """Occ3D's class, or SKY."""
    depths: Float32[ndarray, "height width"]
    """Metres along the camera's axis; 0 where unknown."""
    confidence: UInt8[ndarray, "height width"] | None = None
    """How sure the classes are, 0..255; None of a source that does not say."""


def see(scene: SceneMesh, K: Float[ndarray, "3 3"], world_from_cam: Float[ndarray, "4 4"], image_size: tuple[int, int]) -> SeenSurfaces:
    """Cast the rays through the centres of a camera's pixels at the scene, at the time that it is set to."""
    rays = pixel_rays(K, world_from_cam, image_size).to(scene.device)
    hits = scene.cast(rays, VIEW_DISTANCE)
    is_hit, triangles = hits.triangles >= 0, hits.triangles.long().clamp(min=0)
    ahead = torch.from_numpy(world_from_cam[:3, 2].astype(np.float32)).to(scene.device)
    class_of_category = torch.tensor(CLASS_OF_LIDARSEG, dtype=torch.uint8, device=scene.device)
    semantics = torch.where(is_hit, class_of_category[scene.categories[triangles].long()], SKY)
    depths = torch.where(is_hit, hits.distances * (rays.directions @ ahead), 0.0)
    things = torch.where(is_hit, scene.things[triangles], -1)
    return SeenSurfaces(*(values.reshape(image_size).cpu().numpy() for values in (semantics.byte(), depths, things.int())))


def true_maps(seen: SeenSurfaces) -> DenseMaps:
    """Return maps without errors."""
    return DenseMaps(seen.semantics, seen.depths)


def write_maps(maps: DenseMaps, out: Path, image: str) -> None:
    """Write the maps of an image, `samples/<camera>/<name>`, to `out`/dense/<kind>/<camera>/<name>.png."""
    depths = np.clip(np.round(maps.depths * DEPTH_SCALE), 0, np.iinfo(np.uint16).max).astype(np.uint16)
    for kind, values in (("semantics", maps.semantics), ("depth", depths), ("confidence", maps.confidence)):
        if values is None:
            continue
        path = out / DENSE_FOLDER / kind / PurePosixPath(image).relative_to("samples").with_suffix(".png")
        with naming_the_file(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(path)
