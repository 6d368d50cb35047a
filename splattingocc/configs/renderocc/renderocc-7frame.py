"""RenderOcc's renderer and losses in everything else of Nframe: the baseline that the method is measured against.

Computed by `splattingocc describe`, not measured on a GPU: memory and arithmetic of the network as of `splattingocc-Nframe.py`; rendering
samples 38,400 × 348 points of 18 numbers a sample, twice, because the gradient samples them again (about ten times the time of Gaussians
on a CPU).

    torchrun --nproc-per-node 8 tools/train.py configs/renderocc/renderocc-7frame.py --launcher pytorch --work_dir W \\
        --network.backbone.weights bevdet-swin-b.pth
    torchrun --nproc-per-node 8 tools/test.py configs/renderocc/renderocc-7frame.py W/network.safetensors --launcher pytorch \\
        --eval segm --gpu-collect

A density sampled every 0.2 m, SILog, weighted classes, transmittance entropy, distortion and depth bins with RenderOcc's weights. What
differs from the published system, on purpose: distances are metres and not contracted, classes are composited as probabilities and not as
logits, class weights follow the counts of LiDAR points, the image branch also learns its pixels' classes, and the
threshold is calibrated on 2D labels of training scenes, not tuned on val. Published score: mIoU m17 23.93, of the released weights 24.46,
RayIoU 19.5, from a BEVDet checkpoint; of this configuration: none measured yet.
"""

import math
from pathlib import Path

from splattingocc.experiment import ExperimentConfig, load_config
from splattingocc.losses.depth_bins import DepthBinsConfig
from splattingocc.losses.distance import DistanceConfig
from splattingocc.losses.distortion import DistortionConfig
from splattingocc.losses.empty import EmptyConfig
from splattingocc.losses.line_of_sight import LineOfSightConfig
from splattingocc.losses.objective import ObjectiveConfig
from splattingocc.losses.opacity_prior import OpacityPriorConfig
from splattingocc.losses.pixel_classes import PixelClassesConfig
from splattingocc.losses.query import QueryConfig
from splattingocc.losses.semantic import SemanticConfig
from splattingocc.losses.transmittance_entropy import TransmittanceEntropyConfig
from splattingocc.models.density_head import DensityHeadConfig
from splattingocc.taxonomy import CLASSES

POINTS = (
    2854504, 7291443, 141614, 4239939, 32248552, 1583610, 364372, 2346381, 582961, 4829021, 14073691, 191019309, 6249651, 55095657,
    58484771, 193834360, 131378779,
)  # fmt: skip
"""LiDAR points of each class in the images of nuScenes' training scenes."""


def config() -> ExperimentConfig:
    base = load_config(Path("splattingocc-Nframe"))
    return base.model_copy(
        update={
            "name": "renderocc-7frame",
            "network": base.network.model_copy(update={"head": DensityHeadConfig(sample_step=0.2)}),
            "objective": ObjectiveConfig(
                semantic=SemanticConfig(weight=1.0),
                distance=DistanceConfig(weight=1.0, variance_focus=0.85),
                transmittance_entropy=TransmittanceEntropyConfig(weight=0.01),
                distortion=DistortionConfig(weight=0.01),
                depth_bins=DepthBinsConfig(weight=0.05),
                line_of_sight=LineOfSightConfig(weight=0.0),
                empty=EmptyConfig(weight=0.0),
                query=QueryConfig(weight=0.0),
                pixel_classes=PixelClassesConfig(weight=0.05),
                opacity_prior=OpacityPriorConfig(weight=0.0),
                class_weights={name: 10 / math.log(count) for name, count in zip(CLASSES, POINTS, strict=True)},
            ),
        }
    )
