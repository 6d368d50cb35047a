"""Which parts a network can have: for each place the configuration classes to choose from, and which module each of them configures.

The `kind` of a configuration decides. Networks written before there was a choice have the first of each.
"""

from __future__ import annotations

from typing import Annotated

from splattingocc.config import ByKind, Config
from splattingocc.models.backbones.from_timm import TimmBackbone, TimmConfig
from splattingocc.models.backbones.mobilenet import MobileNetV2, MobileNetV2Config
from splattingocc.models.backbones.resnet import ResNet, ResNetConfig
from splattingocc.models.density_head import DensityHead, DensityHeadConfig
from splattingocc.models.gaussian_head import GaussianHead, GaussianHeadConfig
from splattingocc.models.interfaces import Backbone, Head, Lift, Neck, VolumeEncoder
from splattingocc.models.lift.lss import LSSLift, LSSLiftConfig
from splattingocc.models.lift.sampling import SamplingLift, SamplingLiftConfig
from splattingocc.models.neck import FPN, FPNConfig
from splattingocc.models.volume_encoder import UNet3d, UNet3dConfig

BackboneConfig = Annotated[ResNetConfig | MobileNetV2Config | TimmConfig, ByKind()]
BACKBONES: dict[type[Config], type[Backbone]] = {ResNetConfig: ResNet, MobileNetV2Config: MobileNetV2, TimmConfig: TimmBackbone}

NeckConfig = Annotated[FPNConfig, ByKind()]
NECKS: dict[type[Config], type[Neck]] = {FPNConfig: FPN}

LiftConfig = Annotated[SamplingLiftConfig | LSSLiftConfig, ByKind()]
LIFTS: dict[type[Config], type[Lift]] = {SamplingLiftConfig: SamplingLift, LSSLiftConfig: LSSLift}

VolumeEncoderConfig = Annotated[UNet3dConfig, ByKind()]
VOLUME_ENCODERS: dict[type[Config], type[VolumeEncoder]] = {UNet3dConfig: UNet3d}

HeadConfig = Annotated[GaussianHeadConfig | DensityHeadConfig, ByKind()]
HEADS: dict[type[Config], type[Head]] = {GaussianHeadConfig: GaussianHead, DensityHeadConfig: DensityHead}
