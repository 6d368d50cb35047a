"""ResNet-50 at 256 × 704, LSS with stereo depth, labels of three key frames: the recipe for one to eight ordinary GPUs.

Computed by `splattingocc describe`, not measured on a GPU: 28.8 M parameters; 11.8 GiB for the 4 samples of a step in float32, less in
bf16, 7.8 GiB with `--trainer.activation-checkpointing`; 1.1 TFLOP a sample, so 24 epochs of nuScenes are 0.74 EFLOP: two and a half hours
of one A100 at 30 % of its bf16 peak, if loading keeps up (a sample of 12 images costs a core about 0.2 s).

    splattingocc prepare --dataroot data/nuscenes
    torchrun --nproc-per-node 4 tools/train.py configs/splattingocc/splattingocc-r50.py --launcher pytorch \\
        --network.backbone.weights resnet50.pth
    torchrun --nproc-per-node 4 tools/test.py configs/splattingocc/splattingocc-r50.py work_dirs/splattingocc-r50/network.safetensors \\
        --launcher pytorch --eval segm ray

Initialisation: ImageNet weights of torchvision, or those of a BEVDet detection training; from random weights expect several points less.
The learning rate is for 16 samples a step (4 × 4 here); other numbers of processes need another `--data.batch-size` or
`--trainer.accumulate-batches`. Score: none measured yet.
"""

from pathlib import Path

from splattingocc.data.augment import AugmentConfig
from splattingocc.data.loaders import LoaderConfig
from splattingocc.engine.options import OptimizationConfig
from splattingocc.experiment import DataConfig, ExperimentConfig, TrainerConfig
from splattingocc.models.backbones.resnet import ResNetConfig
from splattingocc.models.image_reader import ImageReaderConfig
from splattingocc.models.lift.lss import LSSLiftConfig
from splattingocc.models.neck import FPNConfig
from splattingocc.models.network import NetworkConfig
from splattingocc.models.stereo import CostVolumeConfig
from splattingocc.models.temporal import TemporalConfig
from splattingocc.models.volume_encoder import UNet3dConfig


def config() -> ExperimentConfig:
    return ExperimentConfig(
        name="splattingocc-r50",
        data=DataConfig(
            dataroot=Path("data/nuscenes"),
            loader=LoaderConfig(
                image_size=(256, 704),
                num_rays=38_400,
                label_frames=3,
                previous_frames=1,
                augment=AugmentConfig(
                    max_zoom=1.11, flip_probability=0.5, max_image_rotation=5.4, brightness=0.2, contrast=0.2, saturation=0.2,
                    mirror_x_probability=0.5, mirror_y_probability=0.5,
                ),
            ),
            batch_size=4,
            num_workers=6,
        ),
        network=NetworkConfig(
            backbone=ResNetConfig(depth=50),
            neck=FPNConfig(channels=256, stride=16),
            image_reader=ImageReaderConfig(rows_per_feature=4, camera_aware=True, stereo=CostVolumeConfig()),
            lift=LSSLiftConfig(channels=64, coarsening=2),
            volume_encoder=UNet3dConfig(channels=(64, 96, 128), blocks=(1, 2, 2)),
            temporal=TemporalConfig(frames=1),
        ),
        optimization=OptimizationConfig(learning_rate=2e-4, weight_decay=1e-2, warmup_steps=500, ema_decay=0.999),
        trainer=TrainerConfig(max_epochs=24, precision="bf16-mixed"),
    )  # fmt: skip
