"""The kinds of streets that scenes show, and how often: what stands beside them, how wide they are, who is on them.

The shares are chosen so that the classes of many scenes are as frequent as in Occ3D-nuScenes (`docs/synthetic.md` has the measurement).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class LotKind(Enum):
    """What stands on a lot."""

    BUILDING = "building"
    HOUSE = "house"
    PARK = "park"
    PARKING = "parking"
    PLAZA = "plaza"
    WORKS = "works"
    GREEN = "green"
    """A bank of grass with trees and bushes behind it."""
    WALLED = "walled"
    """Whatever it is, a wall, a fence or a hedge hides it."""


Range = tuple[float, float]


@dataclass(frozen=True)
class StreetKind:
    """What is drawn for a street of one kind; ranges are uniform."""

    name: str
    lanes_ahead: tuple[int, int]
    lanes_back: tuple[int, int]
    lots: dict[LotKind, float]
    """Shares."""
    speed: Range = (5.0, 10.0)
    """Metres per second."""
    lane_width: Range = (3.2, 3.9)
    """Metres."""
    median: float = 0.0
    """Probability of a raised strip between the directions."""
    parking: float = 0.5
    """Probability, on each side."""
    verge: float = 0.55
    """Probability of a strip of grass at the curb, on each side."""
    verge_width: Range = (1.2, 3.5)
    """Metres."""
    sidewalk: Range = (1.6, 3.4)
    """Metres."""
    setback: Range = (0.1, 1.2)
    """How far behind the sidewalk buildings stand, metres."""
    side_road_spacing: Range = (70.0, 140.0)
    """Metres."""
    side_road_half_width: Range = (3.2, 7.0)
    """Metres."""
    people: float = 0.05
    """Mean number of walkers on a metre of sidewalk."""
    traffic_gap: Range = (20.0, 80.0)
    """Mean free way between vehicles of a lane, metres."""
    tree_spacing: Range = (8.0, 30.0)
    """Metres between the trees at the curb."""
    works: float = 0.6
    """Probability that a lane or the parking of one side is closed with barriers or cones."""


_L = LotKind
AVENUE = StreetKind(
    "avenue", (2, 3), (2, 3), {_L.BUILDING: 0.5, _L.PLAZA: 0.12, _L.PARKING: 0.1, _L.PARK: 0.12, _L.WALLED: 0.1, _L.GREEN: 0.06},
    speed=(6.0, 12.0), median=0.3, parking=0.2, sidewalk=(2.5, 4.5), side_road_spacing=(80.0, 150.0), side_road_half_width=(4.0, 8.0),
    people=0.06,
)  # fmt: skip
DOWNTOWN = StreetKind(
    "downtown street", (1, 3), (1, 2), {_L.BUILDING: 0.75, _L.PLAZA: 0.12, _L.PARKING: 0.06, _L.WORKS: 0.07},
    speed=(3.0, 8.0), parking=0.6, verge=0.1, sidewalk=(2.5, 4.5), people=0.14, traffic_gap=(15.0, 55.0),
)  # fmt: skip
NARROW = StreetKind(
    "narrow street", (1, 1), (0, 1), {_L.BUILDING: 0.45, _L.WALLED: 0.4, _L.HOUSE: 0.1, _L.PARKING: 0.05},
    speed=(3.0, 7.0), lane_width=(2.9, 3.3), parking=0.4, verge=0.05, sidewalk=(1.2, 2.2), setback=(0.0, 0.8), people=0.04,
    side_road_spacing=(60.0, 120.0), side_road_half_width=(2.6, 3.6),
)  # fmt: skip
RESIDENTIAL = StreetKind(
    "residential street", (1, 1), (1, 1), {_L.HOUSE: 0.6, _L.PARK: 0.1, _L.WALLED: 0.22, _L.GREEN: 0.08},
    speed=(4.0, 8.0), parking=0.6, verge=0.6, sidewalk=(1.4, 2.4), setback=(3.0, 7.0), people=0.03, tree_spacing=(6.0, 20.0),
)  # fmt: skip
PARKWAY = StreetKind(
    "street along a park", (1, 3), (1, 2), {_L.PARK: 0.4, _L.GREEN: 0.35, _L.WALLED: 0.15, _L.BUILDING: 0.1},
    speed=(5.0, 10.0), median=0.3, parking=0.2, verge=0.6, verge_width=(1.5, 4.0), people=0.04, tree_spacing=(5.0, 14.0),
)  # fmt: skip
HIGHWAY = StreetKind(
    "highway", (2, 3), (2, 3), {_L.GREEN: 0.65, _L.WALLED: 0.3, _L.BUILDING: 0.05},
    speed=(9.0, 13.0), lane_width=(3.4, 3.8), median=1.0, parking=0.0, verge=1.0, verge_width=(2.0, 6.0), sidewalk=(0.0, 0.0),
    side_road_spacing=(300.0, 600.0), people=0.0, traffic_gap=(20.0, 70.0), tree_spacing=(8.0, 20.0),
)  # fmt: skip
SITE = StreetKind(
    "street works", (2, 3), (1, 3), {_L.WORKS: 0.35, _L.BUILDING: 0.4, _L.WALLED: 0.15, _L.PARKING: 0.1},
    speed=(3.0, 7.0), parking=0.1, verge=0.2, people=0.06, works=1.0,
)  # fmt: skip
CAMPUS = StreetKind(
    "car parks and offices", (1, 2), (1, 2), {_L.PARKING: 0.4, _L.BUILDING: 0.3, _L.PLAZA: 0.1, _L.GREEN: 0.2},
    speed=(3.0, 7.0), parking=0.2, verge=0.5, people=0.05, setback=(1.0, 6.0),
)  # fmt: skip
STREET_KINDS = (
    AVENUE, RESIDENTIAL, DOWNTOWN, PARKWAY, NARROW, AVENUE, HIGHWAY, DOWNTOWN, CAMPUS, AVENUE,
    SITE, RESIDENTIAL, DOWNTOWN, PARKWAY, AVENUE, NARROW, DOWNTOWN, RESIDENTIAL, AVENUE, CAMPUS,
)  # fmt: skip
"""Scenes take them in turn, beginning anywhere, so that few scenes show most kinds."""


def kind_of_scene(seed: int, number: int) -> StreetKind:
    """Return the kind of the street that a scene of a data set shows."""
    return STREET_KINDS[(seed + number) % len(STREET_KINDS)]
