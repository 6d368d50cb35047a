"""The label space: the classes of Occ3D-nuScenes, and what labels say where there is no class.

Source: the published Occ3D-nuScenes class list.
"""

from typing import Final

CLASSES: Final = (
    "others", "barrier", "bicycle", "bus", "car", "construction_vehicle", "motorcycle", "pedestrian", "traffic_cone", "trailer", "truck",
    "driveable_surface", "other_flat", "sidewalk", "terrain", "manmade", "vegetation",
)  # fmt: skip
"""The 17 semantic classes, by index."""
NUM_CLASSES: Final = len(CLASSES)
FREE: Final = NUM_CLASSES
"""The index of empty space in an occupancy grid."""
IGNORE: Final = 255
"""Label of a ray whose class is not known or not trained."""
SKY: Final = 254
"""Label of a ray that hits nothing."""
CLASSES_OUTSIDE_M15: Final = (0, 12)
"""others and other_flat: what the 15-class protocol of self-supervised papers leaves out."""
GROUND_CLASSES: Final = (11, 12, 13, 14)
"""Classes that things stand on: driveable surface, other flat, sidewalk and terrain."""
MOVING_CLASSES: Final = (2, 3, 4, 5, 6, 7, 9, 10)
"""Classes whose labels hold at their own key frame only."""
