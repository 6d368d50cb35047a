import torch

from splattingocc.data.occ3d import OccupancyTruth
from splattingocc.evaluation.miou import OccupancyScores
from splattingocc.evaluation.prior import TrainingPrior, all_free, better_of
from splattingocc.evaluation.scoring import ScoredOccupancy

SHAPE = (200, 200, 16)


def _truth(label_at_origin, seen_at_origin):
    semantics = torch.full(SHAPE, 17, dtype=torch.uint8)
    semantics[0, 0, 0] = label_at_origin
    semantics[1, 1, 1] = 16
    mask_camera = torch.zeros(SHAPE, dtype=torch.bool)
    mask_camera[0, 0, 0] = seen_at_origin
    return OccupancyTruth("token", semantics, mask_camera, torch.ones(SHAPE, dtype=torch.bool))


def test_all_free_is_free_everywhere():
    assert all_free().shape == SHAPE
    assert all_free().dtype == torch.uint8
    assert bool((all_free() == 17).all())


def test_the_prior_is_the_majority_of_each_voxel():
    prior = TrainingPrior()
    for label, seen in [(4, True), (11, False), (11, False)]:
        prior.update(_truth(label, seen))
    assert prior.majority()[0, 0, 0] == 11
    assert prior.majority()[1, 1, 1] == 16
    assert (prior.majority() != 17).sum() == 2


def test_counting_observed_voxels_only_ignores_frames_that_do_not_see_them():
    prior = TrainingPrior()
    for label, seen in [(4, True), (11, False), (11, False)]:
        prior.update(_truth(label, seen))
    assert prior.majority_of_observed()[0, 0, 0] == 4
    assert prior.majority_of_observed()[1, 1, 1] == 17


def test_a_tie_goes_to_the_class_not_to_free():
    prior = TrainingPrior()
    prior.update(_truth(4, True))
    prior.update(_truth(17, True))
    assert prior.majority()[0, 0, 0] == 4


def test_the_better_variant_is_the_one_of_higher_masked_miou():
    def scored(name, miou):
        scores = OccupancyScores(miou, 0.0, 0.0, (0.0,) * 17)
        return ScoredOccupancy(name, scores, scores)

    assert better_of(scored("a", 1.0), scored("b", 2.0)).name == "b"
    assert better_of(scored("a", 2.0), scored("b", 1.0)).name == "a"
