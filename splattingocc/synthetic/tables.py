"""nuScenes' tables: rows with deterministic tokens and complete chains."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from splattingocc.data.nuscenes_taxonomy import CAMERA_CHANNELS, LIDARSEG_CATEGORIES
from splattingocc.files import write_json
from splattingocc.synthetic.rig import LIDAR_CHANNEL, Sensor, quat_from_rotation

Row = dict[str, Any]

TABLES = (
    "attribute", "calibrated_sensor", "category", "ego_pose", "instance", "lidarseg", "log", "map",
    "sample", "sample_annotation", "sample_data", "scene", "sensor", "visibility",
)  # fmt: skip
ATTRIBUTES = (
    "vehicle.moving", "vehicle.stopped", "vehicle.parked", "cycle.with_rider", "cycle.without_rider",
    "pedestrian.sitting_lying_down", "pedestrian.standing", "pedestrian.moving",
)  # fmt: skip
VISIBILITIES = (("1", "v0-40"), ("2", "v40-60"), ("3", "v60-80"), ("4", "v80-100"))


class Tables:
    """The rows of a data set, by table."""

    def __init__(self) -> None:
        self.rows: dict[str, list[Row]] = {name: [] for name in TABLES}

    def add(self, table: str, row: Row) -> str:
        """Add a row and return its token."""
        self.rows[table].append(row)
        return row["token"]

    def write(self, folder: Path) -> None:
        """Write every table as `<name>.json`; each file appears whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        for table, rows in self.rows.items():
            write_json(folder / f"{table}.json", rows)


def token(*key: object) -> str:
    """Return the 32-digit hexadecimal name of something, the same for the same key."""
    return hashlib.md5("/".join(map(str, key)).encode(), usedforsecurity=False).hexdigest()


def chain(rows: list[Row]) -> None:
    """Fill `prev` and `next` of rows that follow each other; the ends get empty strings."""
    tokens = ["", *(row["token"] for row in rows), ""]
    for i, row in enumerate(rows):
        row["prev"], row["next"] = tokens[i], tokens[i + 2]


def pose_columns(dst_from_src: Float[ndarray, "4 4"]) -> Row:
    """Return a pose as nuScenes writes it: quaternion w, x, y, z and translation in metres."""
    return {"rotation": quat_from_rotation(dst_from_src[:3, :3]), "translation": dst_from_src[:3, 3].tolist()}


def common_tables() -> Tables:
    """Return the tables with what all data sets share: categories, attributes, visibilities, sensors."""
    tables = Tables()
    for index, (name, _) in enumerate(LIDARSEG_CATEGORIES):
        tables.add("category", {"token": token("category", name), "name": name, "description": name, "index": index})
    for name in ATTRIBUTES:
        tables.add("attribute", {"token": token("attribute", name), "name": name, "description": name})
    for name, level in VISIBILITIES:
        tables.add("visibility", {"token": name, "level": level, "description": f"visibility of whole object is between {level[1:]}%"})
    for channel in (*CAMERA_CHANNELS, LIDAR_CHANNEL):
        modality = "lidar" if channel == LIDAR_CHANNEL else "camera"
        tables.add("sensor", {"token": token("sensor", channel), "channel": channel, "modality": modality})
    return tables


def calibration_row(scene_key: str, sensor: Sensor) -> Row:
    """Return the calibrated_sensor row of one sensor of a scene."""
    return {
        "token": token(scene_key, "calibrated_sensor", sensor.channel),
        "sensor_token": token("sensor", sensor.channel),
        "camera_intrinsic": [] if sensor.K is None else np.asarray(sensor.K).tolist(),
        **pose_columns(sensor.ego_from_sensor),
    }
