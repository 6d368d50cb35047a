"""A MobileNetV2 on small images of the synthetic streets, sized for two CPU cores: the demo's recipe without the frame before.

Comparisons are made with it, and `splattingocc export` writes its networks as ONNX; `splattingocc-synth-stereo` is what the demo trains.

Initialisation: torchvision's ImageNet weights (docs/training.md says where from), which the demo takes where they are installed and
`--network.backbone.weights` gives; from random ones expect a third less mIoU and RayIoU (docs/experiments.md).
"""

from pathlib import Path

from splattingocc.data.augment import AugmentConfig
from splattingocc.data.loaders import LoaderConfig
from splattingocc.engine.options import OptimizationConfig
from splattingocc.experiment import DataConfig, ExperimentConfig, TrainerConfig
from splattingocc.models.backbones.mobilenet import MobileNetV2Config
from splattingocc.models.lift.sampling import SamplingLiftConfig
from splattingocc.models.neck import FPNConfig
from splattingocc.models.network import NetworkConfig
from splattingocc.models.volume_encoder import UNet3dConfig


def config() -> ExperimentConfig:
    return ExperimentConfig(
        name="splattingocc-synth",
        data=DataConfig(
            dataroot=Path("data/synthetic"),
            version="v1.0-mini",
            loader=LoaderConfig(
                image_size=(96, 240),
                num_rays=10_000,
                held_out_fraction=0.1,
                label_frames=3,
                augment=AugmentConfig(
                    max_zoom=1.2,
                    flip_probability=0.5,
                    brightness=0.2,
                    contrast=0.2,
                    saturation=0.2,
                    mirror_x_probability=0.5,
                    mirror_y_probability=0.5,
                ),
            ),
            batch_size=1,
            num_workers=1,
        ),
        network=NetworkConfig(
            backbone=MobileNetV2Config(),
            neck=FPNConfig(channels=64, stride=4),
            lift=SamplingLiftConfig(channels=16, coarsening=2),
            volume_encoder=UNet3dConfig(channels=(16, 32, 64), blocks=(1, 1, 2)),
        ),
        optimization=OptimizationConfig(learning_rate=2e-3, warmup_steps=15, image_steps=360),
        trainer=TrainerConfig(max_epochs=10, accelerator="auto", predict_all_cells=False),
    )
