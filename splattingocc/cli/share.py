"""The command that writes files for other programs."""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

import tyro
from pydantic import Field

from splattingocc.cli.run import found_network, index_folder
from splattingocc.experiment import ExperimentConfig

USED_BY = {
    ".onnx": ("fp16", "views"),
    ".safetensors": ("fp16", "card"),
    ".npz": ("split", "frame"),
    ".ply": ("split", "frame", "gaussians", "min_opacity"),
}
"""Which options each kind of file knows."""


@dataclass
class Export:
    """Write a trained network, or what it sees in a key frame, for other programs: the name of the file says as what. `.onnx`, the network
    for other runtimes; `.safetensors`, to hand it on; `.npz`, occupancy in Occ3D's layout; `.ply`, a mesh of it, or the Gaussians."""

    network: tyro.conf.Positional[Path]
    """`network.safetensors` of a finished training, or `zoo/<name>`."""
    out: tyro.conf.Positional[Path]
    """The file to write."""
    experiment: Annotated[ExperimentConfig, tyro.conf.arg(name="")]
    fp16: bool = False
    """Store weights in half the bytes; whatever loads them computes in float32. For `.onnx` and `.safetensors`."""
    views: Annotated[int, Field(ge=1, le=100)] = 6
    """Cameras that the ONNX file takes."""
    card: bool = False
    """Write README.md beside the `.safetensors`: what the network is, from its file and the folder of its run."""
    split: str = "val"
    """Of the key frame."""
    frame: Annotated[int, Field(ge=0)] = 0
    """Position of the key frame in the split."""
    gaussians: bool = False
    """Write the Gaussians into the `.ply`, as splat viewers read them, and not the occupied cells."""
    min_opacity: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Leave out Gaussians that are less opaque."""

    def run(self) -> None:
        from splattingocc.engine.checkpoint import is_network
        from splattingocc.pipeline.networks import network_to_test

        kind = self.out.suffix
        if not is_network(self.network):
            raise ValueError(f"{self.network}: a configuration, expected the file of a trained network")
        if kind not in USED_BY:
            raise ValueError(f"{self.out}: expected a name that ends with {', '.join(USED_BY)}")
        self._refuse_unused(kind)
        network = network_to_test(found_network(self.network, self.experiment.name, say=True))
        self._refuse_options(kind, network)
        if kind == ".onnx":
            self._write_onnx(network)
        elif kind == ".safetensors":
            self._write_network(network)
        else:
            self._write_key_frame(network)

    def _refuse_unused(self, kind: str) -> None:
        known = {name for names in USED_BY.values() for name in names}
        for option in fields(Export):
            if option.name in known - set(USED_BY[kind]) and getattr(self, option.name) != option.default:
                raise ValueError(f"--{option.name.replace('_', '-')}: does nothing for {self.out.name}")
        if kind == ".ply" and not self.gaussians and self.min_opacity != Export.min_opacity:
            raise ValueError("--min-opacity: is about Gaussians, expected --gaussians with it")

    def _refuse_options(self, kind: str, network: Path) -> None:
        """Refuse options of the configuration for files that are the network's as it was trained."""
        from splattingocc.engine.ledger import differences
        from splattingocc.pipeline.networks import load_experiment

        changed = differences(self.experiment.model_dump(mode="json"), load_experiment(network).model_dump(mode="json"))
        if kind in (".onnx", ".safetensors") and changed:
            name, value = next(iter(changed.items()))
            raise ValueError(f"{name} {value}: does nothing for {self.out.name}, which is the network as it was trained")

    def _write_onnx(self, network: Path) -> None:
        from splattingocc.pipeline.onnx_export import export_onnx

        print(export_onnx(self.experiment, network, self.out, num_views=self.views, half=self.fp16))

    def _write_network(self, network: Path) -> None:
        from splattingocc.pipeline.sharing import card_path, share_network

        if self.out.resolve() == network.resolve():
            raise ValueError(f"{self.out}: is the network itself, expected another name")
        share_network(network, self.out, half=self.fp16, card=self.card)
        print(f"{self.out}: {self.out.stat().st_size / 1e6:.1f} MB, of {network.stat().st_size / 1e6:.1f} MB")
        if self.card:
            print(card_path(self.out))

    def _write_key_frame(self, network: Path) -> None:
        from splattingocc.experiment import build_index
        from splattingocc.pipeline.networks import run_folder, with_folders_here
        from splattingocc.pipeline.prediction import about_options, positions_to_test, with_remembered_labels
        from splattingocc.predictor import predict_key_frame
        from splattingocc.taxonomy import FREE

        experiment, remarks = with_folders_here(self.experiment, network)
        experiment = with_remembered_labels(experiment, network)
        for line in (*remarks, *about_options(experiment, network, network)):
            print(line, file=sys.stderr)
        index = build_index(experiment.data, index_folder(run_folder(network)))
        positions = positions_to_test(experiment, index, self.split)
        if self.frame >= len(positions):
            raise ValueError(f"--frame {self.frame}: split {self.split} has key frames 0 to {len(positions) - 1}")
        occupancy = predict_key_frame(experiment, network, index, positions[self.frame])
        if self.gaussians:
            written = f"{occupancy.save_gaussians(self.out, min_opacity=self.min_opacity):,} Gaussians"
        else:
            occupancy.save(self.out)
            written = f"{int((occupancy.semantics != FREE).sum()):,} occupied cells"
        key_frame = index[positions[self.frame]]
        print(f"{self.out}: {written} of {key_frame.scene}, key frame {key_frame.index_in_scene}")
