"""Normalisation is the formula."""

import numpy as np
import torch

from rsedge_train.data.pixels import MEAN, STD, normalise


def test_normalise_is_the_formula():
    images = torch.arange(2 * 3 * 4 * 5, dtype=torch.uint8).view(2, 3, 4, 5)
    mean, std = (np.array(v)[None, :, None, None] for v in (MEAN, STD))
    expected = (images.numpy() / 255.0 - mean) / std
    np.testing.assert_allclose(normalise(images).numpy(), expected, atol=1e-6)
