"""Encoders of the library timm, from random weights; where it is not installed, that this is said in one line."""

import copy
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor

from splattingocc.models.backbones import from_timm
from splattingocc.models.backbones.from_timm import TimmBackbone, TimmConfig, published_names

SWIN_T = "swin_tiny_patch4_window7_224"
ENCODERS = {
    SWIN_T: (96, 192, 384, 768),
    "swin_base_patch4_window12_384": (128, 256, 512, 1024),
    "convnext_tiny": (96, 192, 384, 768),
    "vit_small_patch14_dinov2": (384, 384, 384, 384),
}


@pytest.fixture(scope="module")
def swin(timm: ModuleType) -> TimmBackbone:
    torch.manual_seed(0)
    return TimmBackbone(TimmConfig(name=SWIN_T)).eval()


def published(backbone: TimmBackbone) -> dict[str, Tensor]:
    """Return its weights by the names that timm publishes them under."""
    names = published_names(backbone.encoder)
    return {names[key]: value for key, value in backbone.encoder.state_dict().items()}


def to_authors(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return timm's Swin as its authors write it: a merging belongs to the stage before."""
    moved = {}
    for key, value in state.items():
        parts = key.split(".")
        if parts[2:3] == ["downsample"]:
            parts[1] = str(int(parts[1]) - 1)
        moved[".".join(parts)] = value
    return moved | {
        "norm.weight": torch.ones(768),
        "head.bias": torch.zeros(1000),
        "layers.0.blocks.0.attn.relative_position_index": torch.zeros(49, 49),
    }


def to_mmdetection(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return timm's Swin as mmdetection writes it."""
    words = [
        ("patch_embed.proj.", "patch_embed.projection."),
        ("layers.", "stages."),
        (".attn.", ".attn.w_msa."),
        (".mlp.fc1.", ".ffn.layers.0.0."),
        (".mlp.fc2.", ".ffn.layers.1."),
    ]
    written = {}
    for key, value in to_authors(state).items():
        if key.startswith(("norm.", "head.")):
            continue
        for own, theirs in words:
            key = key.replace(own, theirs)
        if ".downsample." in key:
            # Slices count the neighbours down the columns and keep their channels together; unfolding goes along the rows within a channel
            top_left, bottom_left, top_right, bottom_right = value.chunk(4, dim=-1)
            value = torch.stack([top_left, top_right, bottom_left, bottom_right], dim=-1).flatten(-2)
        written[key] = value
    return written | {f"norm{stage}.weight": torch.ones(96 * 2**stage) for stage in range(4)}


def to_torchvision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return timm's Swin as torchvision writes it."""
    written = {
        "norm.weight": torch.ones(768),
        "norm.bias": torch.zeros(768),
        "head.weight": torch.zeros(1000, 768),
        "head.bias": torch.zeros(1000),
    }
    for key, value in state.items():
        parts = key.split(".")
        if parts[0] == "patch_embed":
            written[f"features.0.{0 if parts[1] == 'proj' else 2}.{parts[2]}"] = value
        elif parts[2] == "downsample":
            written[f"features.{2 * int(parts[1])}.{'.'.join(parts[3:])}"] = value
        else:
            rest = ".".join(parts[3:]).replace("mlp.fc1", "mlp.0").replace("mlp.fc2", "mlp.3")
            written[f"features.{2 * int(parts[1]) + 1}.{rest}"] = value
            if rest.endswith("bias_table"):
                written[f"features.{2 * int(parts[1]) + 1}.{rest.replace('bias_table', 'index')}"] = torch.zeros(49 * 49)
    return written


@pytest.mark.parametrize(
    ("name", "height", "width"), [*((name, 45, 80) for name in ENCODERS), ("convnext_tiny", 64, 96), ("vit_small_patch14_dinov2", 32, 32)]
)
def test_an_encoder_gives_four_strides_of_any_image_and_everything_learns(timm: ModuleType, name: str, height: int, width: int):
    torch.manual_seed(0)
    backbone = TimmBackbone(TimmConfig(name=name)).train()
    levels = backbone(torch.rand(1, 3, height, width))
    assert [tuple(level.shape[2:]) for level in levels] == [(-(-height // stride), -(-width // stride)) for stride in (4, 8, 16, 32)]
    assert tuple(level.shape[1] for level in levels) == tuple(backbone.out_channels) == ENCODERS[name]
    sum((level * torch.randn_like(level)).sum() for level in levels).backward()
    assert [key for key, parameter in backbone.named_parameters() if parameter.grad is None or not parameter.grad.any()] == []


@pytest.mark.parametrize("name", [SWIN_T, "convnext_tiny"])
def test_training_draws_nothing_at_random(timm: ModuleType, name: str):
    backbone = TimmBackbone(TimmConfig(name=name)).train()
    images = torch.rand(1, 3, 32, 32)
    for first, second in zip(backbone(images), backbone(images)):
        assert torch.equal(first, second)


def test_a_copy_attends_with_its_own_weights(swin: TimmBackbone):
    twin = copy.deepcopy(swin)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
        assert swin(torch.rand(1, 3, 32, 32))[0].any()
        assert not twin(torch.rand(1, 3, 32, 32))[0].any()


def test_levels_of_a_plain_vit_keep_the_place_of_what_they_show(timm: ModuleType):
    torch.manual_seed(0)
    backbone = TimmBackbone(TimmConfig(name="vit_small_patch14_dinov2")).eval()
    grey, marked = torch.full((2, 1, 3, 96, 160), 0.5)
    marked[..., 32:48, 112:128] = 1.0
    with torch.no_grad():
        for stride, without, level in zip((4, 8, 16, 32), backbone(grey), backbone(marked)):
            change = (level - without).square().sum(dim=(0, 1))
            row, column = divmod(int(change.argmax()), change.shape[1])
            assert 32 - stride <= (row + 0.5) * stride <= 48 + stride
            assert 112 - stride <= (column + 0.5) * stride <= 128 + stride


@pytest.mark.parametrize("written", [dict, to_authors, to_mmdetection, to_torchvision])
def test_a_swin_of_every_layout_gives_the_same_features(swin: TimmBackbone, tmp_path: Path, written):
    path = tmp_path / "swin.pth"
    torch.save({"state_dict": written(published(swin)), "meta": {"epoch": 12, "CLASSES": ("car",)}}, path)
    loaded = TimmBackbone(TimmConfig(name=SWIN_T, weights=path)).eval()
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        for expected, level in zip(swin(images), loaded(images)):
            assert torch.equal(expected, level)


def test_the_swin_of_a_detector_is_found_under_its_prefix(swin: TimmBackbone, tmp_path: Path):
    path = tmp_path / "bevdet.pth"
    detector = {f"module.img_backbone.{key}": value for key, value in to_mmdetection(published(swin)).items()}
    torch.save(
        {"state_dict": detector | {"module.img_neck.conv.weight": torch.zeros(3), "module.pts_bbox_head.bias": torch.zeros(3)}}, path
    )
    loaded = TimmBackbone(TimmConfig(name=SWIN_T, weights=path)).loaded
    assert loaded is not None
    assert {"img_neck.conv.weight", "pts_bbox_head.bias"} <= set(loaded.skipped)
    assert loaded.missing == []
    assert "Swin in mmdetection's layout" in loaded.describe()


def test_features_are_those_of_torchvisions_swin_where_windows_do_not_divide_the_image(
    torchvision: ModuleType, swin: TimmBackbone, tmp_path: Path
):
    torch.manual_seed(1)
    theirs = torchvision.models.swin_t().eval()
    for name, parameter in theirs.named_parameters():
        if "bias" in name or "table" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    state = theirs.state_dict()
    assert set(to_torchvision(published(swin))) == set(state)
    save_file(state, tmp_path / "swin_t.safetensors")
    backbone = TimmBackbone(TimmConfig(name=SWIN_T, weights=tmp_path / "swin_t.safetensors")).eval()
    images = torch.rand(1, 3, 256, 288)  # rows of patches: 64, 32, 16 and 8, none of them whole windows
    with torch.no_grad():
        x = backbone.normalize(images)
        expected = [x := theirs.features[position : position + 2](x) for position in (0, 2, 4, 6)]
        for theirs_level, level in zip(expected, backbone(images)):
            torch.testing.assert_close(level, theirs_level.permute(0, 3, 1, 2), rtol=1e-3, atol=1e-3)


def test_weights_of_a_convnext_and_a_dinov2_load_by_timms_names(timm: ModuleType, tmp_path: Path):
    for name, of_pretraining in (("convnext_tiny", "head.fc.weight"), ("vit_small_patch14_dinov2", "mask_token")):
        first = TimmBackbone(TimmConfig(name=name))
        path = tmp_path / f"{name}.safetensors"
        save_file(published(first) | {of_pretraining: torch.zeros(3)}, path)
        second = TimmBackbone(TimmConfig(name=name, weights=path))
        for key, value in first.state_dict().items():
            assert torch.equal(second.state_dict()[key], value)


def test_weights_of_another_encoder_and_of_another_window_are_one_line(swin: TimmBackbone, timm: ModuleType, tmp_path: Path):
    path = tmp_path / "swin.safetensors"
    save_file(published(swin), path)
    with pytest.raises(ValueError, match=r"swin\.safetensors: weights of Swin in timm's layout, but this encoder is a ConvNeXt"):
        TimmBackbone(TimmConfig(name="convnext_tiny", weights=path))
    with pytest.raises(ValueError, match=r"the first: key .*bias_table has shape \(529, 3\), the network needs \(169"):
        TimmBackbone(TimmConfig(name="swin_tiny_patch4_window7_224", weights=_other_window(published(swin), path)))


def _other_window(state: dict[str, Tensor], path: Path) -> Path:
    changed = {key: torch.zeros(23 * 23, value.shape[1]) if key.endswith("bias_table") else value for key, value in state.items()}
    save_file(changed, path)
    return path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("convnext_tinny", r"timm [\d.]+ has no convnext_tinny; did you mean convnext_tiny"),
        ("mobilenetv3_small_100.", "string should match pattern"),
        ("hf-hub:someone/something", "string should match pattern"),
        ("levit_128s", r"timm's levit_128s has features at 1/16, 1/32, 1/64, expected 1/4, 1/8, 1/16 and 1/32 among them"),
    ],
)
def test_names_that_cannot_be_used_are_refused(timm: ModuleType, name: str, message: str):
    with pytest.raises((ValueError, ValidationError), match=f"(?i){message}"):
        TimmBackbone(TimmConfig(name=name))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            ModuleNotFoundError("No module named 'timm'", name="timm"),
            r"need timm, which is not installed: pip install splattingocc\[backbones\]",
        ),
        (
            RuntimeError("operator torchvision::nms does not exist"),
            r"nms does not exist\): install the torchvision that belongs to torch",
        ),
    ],
)
def test_a_library_that_is_missing_or_does_not_fit_is_one_line(monkeypatch: pytest.MonkeyPatch, error: Exception, message: str):
    def refuse(_: str) -> ModuleType:
        raise error

    monkeypatch.setattr(from_timm.importlib, "import_module", refuse)
    with pytest.raises(ValueError, match=message):
        TimmBackbone(TimmConfig())


def test_the_parts_of_a_network_are_there_without_the_library():
    words = "import sys, splattingocc.models.parts; assert not {'timm', 'torchvision'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", words]).returncode == 0


def test_a_trained_network_of_this_project_gives_its_encoder(swin: TimmBackbone, tmp_path: Path):
    state = {f"backbone.{key}": value.contiguous() for key, value in swin.state_dict().items()}
    save_file(state | {"neck.weight": torch.zeros(2)}, tmp_path / "network.safetensors")
    torch.manual_seed(1)
    found = TimmBackbone(TimmConfig(name=SWIN_T, weights=tmp_path / "network.safetensors"))
    assert found.loaded is not None
    assert found.loaded.describe().endswith("1 skipped (neck.weight), 0 missing")
    for key, value in swin.state_dict().items():
        assert torch.equal(found.state_dict()[key], value), key
