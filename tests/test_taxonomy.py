from splattingocc.data.nuscenes_taxonomy import CLASS_OF_LIDARSEG, LIDARSEG_CATEGORIES
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


def test_classes_have_the_numbers_that_published_truth_and_scores_are_in():
    """Truth, scores and synthetic labels share the table: another order would change them all alike. This is Occ3D-nuScenes'."""
    assert dict(enumerate(CLASSES)) == {
        0: "others", 1: "barrier", 2: "bicycle", 3: "bus", 4: "car", 5: "construction_vehicle", 6: "motorcycle", 7: "pedestrian",
        8: "traffic_cone", 9: "trailer", 10: "truck", 11: "driveable_surface", 12: "other_flat", 13: "sidewalk", 14: "terrain",
        15: "manmade", 16: "vegetation",
    }  # fmt: skip
    assert (FREE, SKY, IGNORE) == (17, 254, 255)


def test_categories_of_nuscenes_have_the_classes_of_its_lidarseg_challenge():
    """By name, the 16 classes of the challenge and what they are made of; Occ3D counts what the challenge leaves out as others."""
    categories_of = {
        "barrier": {"movable_object.barrier"},
        "bicycle": {"vehicle.bicycle"},
        "bus": {"vehicle.bus.bendy", "vehicle.bus.rigid"},
        "car": {"vehicle.car"},
        "construction_vehicle": {"vehicle.construction"},
        "motorcycle": {"vehicle.motorcycle"},
        "pedestrian": {f"human.pedestrian.{kind}" for kind in ("adult", "child", "construction_worker", "police_officer")},
        "traffic_cone": {"movable_object.trafficcone"},
        "trailer": {"vehicle.trailer"},
        "truck": {"vehicle.truck"},
        "driveable_surface": {"flat.driveable_surface"},
        "other_flat": {"flat.other"},
        "sidewalk": {"flat.sidewalk"},
        "terrain": {"flat.terrain"},
        "manmade": {"static.manmade"},
        "vegetation": {"static.vegetation"},
    }
    found = {name: {category for category, label in LIDARSEG_CATEGORIES if label == CLASSES.index(name)} for name in categories_of}
    assert found == categories_of
    assert [LIDARSEG_CATEGORIES[index][0] for index in (0, 1, 17, 24, 31)] == [
        "noise", "animal", "vehicle.car", "flat.driveable_surface", "vehicle.ego",
    ]  # fmt: skip
    assert [index for index, label in enumerate(CLASS_OF_LIDARSEG) if label == IGNORE] == [0, 31]
