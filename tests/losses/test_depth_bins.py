import dataclasses

import torch
from labelled_scene import BINS, NUM_SAMPLES, NUM_VIEWS, loss_inputs

from splattingocc.losses.depth_bins import DepthBinsLoss


def test_the_depth_distribution_learns_z_depth_at_the_pixel_of_its_own_rays():
    inputs = loss_inputs()
    points = inputs.rays.at(inputs.labels.distances)
    scores = torch.zeros(NUM_SAMPLES, NUM_VIEWS, BINS.count, 8, 6, dtype=torch.float64)
    for sample, ray in (inputs.labels.distances.isfinite() & (inputs.labels.weights > 0)).nonzero().tolist():
        view, point = ray % NUM_VIEWS, points[sample, ray]
        (u, v), _ = (tensor[0] for tensor in inputs.cameras[sample, view].project(point[None]))
        # z-depth is x from the camera, the second of which is a metre ahead of or behind the first
        depth = point[0] - inputs.cameras.optical_centers[sample, view, 0]
        scores[sample, view, BINS.index(depth).item(), int(v / 4), int(u / 8)] += inputs.labels.weights[sample, ray]
    # What the cross-entropy is least for: the share of the labels of each feature pixel in each bin
    best = dataclasses.replace(inputs.reading, depth_logits=scores.clamp(min=1e-12).log())
    least = DepthBinsLoss(BINS)(dataclasses.replace(inputs, reading=best))
    assert (least < 0.3 * DepthBinsLoss(BINS)(inputs)).all()
    for nudge in (-1, 1):
        off = dataclasses.replace(inputs.reading, depth_logits=best.depth_logits.roll(nudge, dims=2))
        assert (DepthBinsLoss(BINS)(dataclasses.replace(inputs, reading=off)) > least).all()


def test_each_sample_has_the_mean_of_its_own_points():
    inputs, loss = loss_inputs(), DepthBinsLoss(BINS)
    both = loss(inputs)
    for sample in range(NUM_SAMPLES):
        parts = {name: getattr(inputs, name)[sample : sample + 1] for name in ("reading", "rays", "labels", "cameras")}
        assert torch.allclose(loss(dataclasses.replace(inputs, **parts)), both[sample])
