"""Swin-B at 512 × 1408, LSS without stereo, labels and images of the key frame alone: what Nframe is without its neighbours.

Computed by `splattingocc describe`, not measured on a GPU: 98.6 M parameters; 10.6 GiB for the 2 samples of a step in float32 with
activation checkpointing, 49.7 GiB without; half of Nframe's arithmetic, for there is no earlier frame to encode.

    torchrun --nproc-per-node 8 tools/train.py configs/splattingocc/splattingocc-1frame.py --launcher pytorch --work_dir W \\
        --network.backbone.weights bevdet-swin-b.pth
    torchrun --nproc-per-node 8 tools/test.py configs/splattingocc/splattingocc-1frame.py W/network.safetensors --launcher pytorch \\
        --eval segm --gpu-collect

Initialisation as of `splattingocc-Nframe.py`. Score: none measured yet.
"""

from pathlib import Path

from splattingocc.experiment import ExperimentConfig, load_config
from splattingocc.models.stereo import NoStereoConfig
from splattingocc.models.temporal import TemporalConfig


def config() -> ExperimentConfig:
    base = load_config(Path("splattingocc-Nframe"))
    loader = base.data.loader.model_copy(update={"label_frames": 1, "previous_frames": 0})
    reader = base.network.image_reader.model_copy(update={"stereo": NoStereoConfig()})
    return base.model_copy(
        update={
            "name": "splattingocc-1frame",
            "data": base.data.model_copy(update={"loader": loader}),
            "network": base.network.model_copy(update={"image_reader": reader, "temporal": TemporalConfig()}),
        }
    )
