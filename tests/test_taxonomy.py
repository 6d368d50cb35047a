from splattingocc.data.nuscenes_taxonomy import CLASS_OF_LIDARSEG
from splattingocc.taxonomy import CLASSES, FREE, GROUND_CLASSES, IGNORE, MOVING_CLASSES, NUM_CLASSES, SKY


def test_what_is_no_class_has_an_index_of_its_own():
    assert len({*range(NUM_CLASSES), FREE, SKY, IGNORE}) == NUM_CLASSES + 3


def test_things_stand_on_ground_that_does_not_move():
    assert [CLASSES[index] for index in GROUND_CLASSES] == ["driveable_surface", "other_flat", "sidewalk", "terrain"]
    assert not set(GROUND_CLASSES) & set(MOVING_CLASSES)
    assert {CLASSES[index] for index in MOVING_CLASSES} == {
        "bicycle", "bus", "car", "construction_vehicle", "motorcycle", "pedestrian", "trailer", "truck",
    }  # fmt: skip


def test_every_class_has_a_category_of_nuscenes():
    assert set(CLASS_OF_LIDARSEG) == {*range(NUM_CLASSES), IGNORE}
