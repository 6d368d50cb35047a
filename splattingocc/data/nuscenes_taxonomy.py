"""nuScenes' own names: how its lidarseg categories map to the classes of the label space, and the cameras of its rig.

Source: the published nuScenes-lidarseg category list.
"""

from typing import Final

from splattingocc.taxonomy import IGNORE

LIDARSEG_CATEGORIES: Final = (
    ("noise", IGNORE),
    ("animal", 0),
    ("human.pedestrian.adult", 7),
    ("human.pedestrian.child", 7),
    ("human.pedestrian.construction_worker", 7),
    ("human.pedestrian.personal_mobility", 0),
    ("human.pedestrian.police_officer", 7),
    ("human.pedestrian.stroller", 0),
    ("human.pedestrian.wheelchair", 0),
    ("movable_object.barrier", 1),
    ("movable_object.debris", 0),
    ("movable_object.pushable_pullable", 0),
    ("movable_object.trafficcone", 8),
    ("static_object.bicycle_rack", 0),
    ("vehicle.bicycle", 2),
    ("vehicle.bus.bendy", 3),
    ("vehicle.bus.rigid", 3),
    ("vehicle.car", 4),
    ("vehicle.construction", 5),
    ("vehicle.emergency.ambulance", 0),
    ("vehicle.emergency.police", 0),
    ("vehicle.motorcycle", 6),
    ("vehicle.trailer", 9),
    ("vehicle.truck", 10),
    ("flat.driveable_surface", 11),
    ("flat.other", 12),
    ("flat.sidewalk", 13),
    ("flat.terrain", 14),
    ("static.manmade", 15),
    ("static.other", 0),
    ("static.vegetation", 16),
    ("vehicle.ego", IGNORE),
)
"""(name, class) of each nuScenes-lidarseg index; noise and the ego vehicle are not trained."""
CLASS_OF_LIDARSEG: Final = tuple(label for _, label in LIDARSEG_CATEGORIES)
CAMERA_CHANNELS: Final = ("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_RIGHT", "CAM_BACK", "CAM_BACK_LEFT")
"""The nuScenes rig, clockwise from the front left; the view order of every sample."""
