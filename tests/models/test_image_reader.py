import pytest
import torch
from rigs import surround_cameras

from splattingocc.models.image_reader import ImageReader, ImageReaderConfig
from splattingocc.struct import stack


def test_each_pixel_has_a_depth_and_a_class_in_finer_rows_than_the_features():
    cameras = stack([surround_cameras(2, (32, 48), focal=20.0)] * 3)
    reader = ImageReader(ImageReaderConfig(ground_classes=(2,), rows_per_feature=4), 4, 5)
    features = torch.randn(3, 2, 4, 4, 6)
    reading = reader(features, cameras)
    assert torch.equal(reading.context, features)
    assert reading.depth_logits.shape == (3, 2, reader.config.depth_bins.count, 16, 6)
    assert reading.class_logits.shape == (3, 2, 5, 16, 6)
    alone = reader(features[1:2], cameras[1:2])
    torch.testing.assert_close(alone.depth_logits[0], reading.depth_logits[1])


def test_a_fresh_depth_starts_from_geometry_and_image_features_correct_it():
    cameras = stack([surround_cameras(1, (32, 48), focal=20.0)])
    reader = ImageReader(ImageReaderConfig(ground_classes=(2,)), 4, 5)
    torch.nn.init.zeros_(reader.depth_head.smooth.weight)
    torch.nn.init.zeros_(reader.depth_head.smooth.bias)
    features = torch.randn(1, 1, 4, 4, 6)
    reading = reader(features, cameras)
    prior = reader.depth_prior(reading.class_logits[0].softmax(dim=1), cameras[0])
    assert torch.equal(reading.depth_logits[0], prior)
    with torch.no_grad():
        reader.depth_head.smooth.bias[7] = 2.0
    torch.testing.assert_close(
        (reader(features, cameras).depth_logits[0] - prior).sum(dim=1), torch.full((1, 16, 6), 2.0), rtol=0, atol=1e-4
    )


def test_a_ground_class_that_is_no_class_is_refused():
    with pytest.raises(ValueError, match=r"image_reader\.ground_classes: \(3, 5\), expected class indices below 5"):
        ImageReader(ImageReaderConfig(ground_classes=(3, 5)), 4, 5)
