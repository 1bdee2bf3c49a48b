"""Labelled scenes in memory, and the crops that training draws from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import IterableDataset

from rsedge.errors import InputError
from rsedge.labels import LabelColors
from rsedge.manifest import NODATA
from rsedge.sample import CLASSES

IGNORE = NODATA
DUBAI_COLOURS = LabelColors.read(Path(__file__).with_name("dubai.toml"), CLASSES)

# The statistics of ImageNet. The exported graph carries the same constants.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

UInt8 = npt.NDArray[np.uint8]
Augment = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

_POINTS_PER_CLASS = 20_000


@dataclass(frozen=True)
class Scene:
    """One labelled scene: ``image`` (3, H, W) and ``labels`` (H, W), both uint8; 255 is unlabelled."""

    name: str
    image: UInt8 = field(repr=False)
    labels: UInt8 = field(repr=False)

    def __post_init__(self) -> None:
        if self.image.ndim != 3 or self.image.shape[0] != 3 or self.image.shape[1:] != self.labels.shape:
            raise InputError(
                f"scene {self.name}: image {self.image.shape} and labels {self.labels.shape}; "
                "expected (3, H, W) and (H, W)"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.labels.shape[0], self.labels.shape[1]


def normalise(images: Tensor) -> Tensor:
    """Uint8 ``(N, 3, H, W)`` -> float32 of the same shape, as the networks expect it."""
    mean = torch.tensor(MEAN).view(1, 3, 1, 1) * 255.0
    std = torch.tensor(STD).view(1, 3, 1, 1) * 255.0
    return (images.float() - mean.to(images.device)) / std.to(images.device)


def _read_rgb(path: Path) -> UInt8:
    try:
        with Image.open(path) as file:
            return np.asarray(file.convert("RGB")).transpose(2, 0, 1)
    except (OSError, UnidentifiedImageError) as err:
        raise InputError(f"cannot read {path}: {err}") from err


def _stitch(parts: Sequence[UInt8], source: str) -> UInt8:
    """Nine parts, row-major, joined along their last two axes."""
    try:
        return np.concatenate([np.concatenate(parts[row : row + 3], axis=-1) for row in (0, 3, 6)], axis=-2)
    except ValueError as err:
        raise InputError(f"{source}: the nine parts do not join: {[p.shape for p in parts]}") from err


def load_dubai_scene(folder: Path) -> Scene:
    """Read one scene of the Dubai data set: 3 x 3 parts under ``images/`` and ``masks/``.

    The parts join without overlap; stitched, crops can lie across their borders.
    """
    images, masks = [], []
    for part in range(1, 10):
        stem = f"image_part_{part:03d}"
        image = _read_rgb(folder / "images" / f"{stem}.jpg")
        mask_path = folder / "masks" / f"{stem}.png"
        mask = DUBAI_COLOURS.encode(_read_rgb(mask_path), str(mask_path))
        if image.shape[1:] != mask.shape:
            raise InputError(f"{mask_path} is {mask.shape}, its image {image.shape[1:]}")
        images.append(image)
        masks.append(mask)
    return Scene(folder.name, _stitch(images, str(folder)), _stitch(masks, str(folder)))


def class_shares(scenes: Sequence[Scene], num_classes: int) -> list[float]:
    """Share of the labelled pixels that each class has over all scenes."""
    counts = sum(np.bincount(s.labels.ravel(), minlength=256)[:num_classes] for s in scenes)
    total = max(1, int(np.sum(counts)))
    return [float(n) / total for n in np.asarray(counts)]


class CropSampler(IterableDataset[tuple[Tensor, Tensor]]):
    """Endless batches of augmented square crops: images ``(B, 3, S, S)``, labels ``(B, S, S)``, both uint8.

    A group of scenes is drawn by its weight, a scene of it in proportion to the square root of its
    area (so that one large scene does not drown the others), then a window whose side is ``size``
    divided by a scale factor, log-uniform in ``scale``: above 1 objects appear larger. A share
    ``centred`` of the windows lies around a pixel of a class drawn uniformly, for the rare classes.

    All random numbers come from torch's global generator, which a DataLoader seeds differently in
    each of its workers.
    """

    def __init__(
        self,
        groups: Sequence[tuple[float, Sequence[Scene]]],
        augment: Augment,
        *,
        batch: int,
        size: int,
        scale: tuple[float, float] = (0.5, 2.5),
        centred: float = 0.4,
        num_classes: int = len(CLASSES),
    ) -> None:
        self.scenes = [scene for _, scenes in groups for scene in scenes]
        if not self.scenes:
            raise InputError("no scene to train on")
        self.augment, self.batch, self.size = augment, batch, size
        self.scale, self.centred = scale, centred
        weights: list[float] = []
        for share, scenes in groups:
            roots = [math.sqrt(s.labels.size) for s in scenes]
            weights += [share * root / sum(roots) for root in roots]
        self.weights = torch.tensor(weights)
        self.points = [_class_points(scene.labels, num_classes) for scene in self.scenes]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            crops = [self.augment(*self.window()) for _ in range(self.batch)]
            yield torch.stack([image for image, _ in crops]), torch.stack([labels for _, labels in crops])

    def window(self) -> tuple[Tensor, Tensor]:
        """One random window before augmentation: image ``(3, s, s)``, labels ``(s, s)``, uint8."""
        index = int(torch.multinomial(self.weights, 1))
        scene = self.scenes[index]
        low, high = (math.log(s) for s in self.scale)
        side = round(self.size / math.exp(_uniform(low, high)))
        side = max(1, min(side, *scene.shape))
        row, col = (int(torch.randint(0, edge - side + 1, ())) for edge in scene.shape)
        present = self.points[index]
        if present and _uniform(0, 1) < self.centred:
            points = present[int(torch.randint(len(present), ()))]
            point = points[int(torch.randint(len(points), ()))]
            row, col = (
                min(max(int(at) - int(torch.randint(side, ())), 0), edge - side)
                for at, edge in zip(divmod(int(point), scene.shape[1]), scene.shape, strict=True)
            )
        area = (slice(row, row + side), slice(col, col + side))
        image = np.ascontiguousarray(scene.image[(slice(None), *area)])
        return torch.from_numpy(image), torch.from_numpy(np.ascontiguousarray(scene.labels[area]))


def _uniform(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(()))


def _class_points(labels: UInt8, num_classes: int) -> list[npt.NDArray[np.int64]]:
    """Evenly spread flat pixel indices of each class that the scene has."""
    points = (np.flatnonzero(labels == k) for k in range(num_classes))
    return [p[:: max(1, len(p) // _POINTS_PER_CLASS)] for p in points if len(p)]
