"""Run by test_processes, alone and under torchrun: trains a network without batch norm for three steps."""

import sys
from functools import partial
from pathlib import Path

import torch
from torch import nn

from rsedge_train.data.base import IGNORE, TAUGHT
from rsedge_train.fit.loop import FitConfig, fit
from rsedge_train.fit.losses import distillation_loss, supervised_loss, taught_loss
from rsedge_train.fit.processes import session
from rsedge_train.fit.state import save_weights

BATCH, SIDE, CLASSES = 4, 16, 3
LOSSES = ("supervised", "distilled", "dist", "kl")


class Crops:
    """Batch n of all processes, of which each takes its share; unlabelled pixels are spread unevenly."""

    def __init__(self, processes):
        share = BATCH // processes.count
        self.mine = slice(processes.rank * share, (processes.rank + 1) * share)

    def between(self, first, last):
        for n in range(first, last):
            generator = torch.Generator().manual_seed(n)
            images = torch.randint(0, 256, (BATCH, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)
            labels = (images.float().mean(1) / 86).to(torch.uint8)
            labels[0, 2:] = 255
            yield images[self.mine], labels[self.mine], torch.zeros(BATCH, 4)

    def name(self, _places):
        return ""


def net(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.GELU(), nn.Conv2d(8, CLASSES, 1))


def supervised(model, images, labels):
    return supervised_loss(model(images), labels, weight=torch.tensor([1.0, 2.0, 3.0]))


def distilled(model, images, labels):
    teacher = net(7).eval().requires_grad_(False)
    return distillation_loss(model(images), teacher(images), labels, 0.5)


def taught(model, images, labels, kl):
    """Most pixels of one class have no label, so they are spread unevenly too."""
    teacher, mixed = net(7).eval().requires_grad_(False)(images), labels.masked_fill(labels == 1, TAUGHT)
    scores, own = model(images), mixed.masked_fill(mixed == TAUGHT, IGNORE)
    more = taught_loss(scores, teacher, mixed, 0.5, kl=kl)["unlabelled"]
    return {"loss": distillation_loss(scores, teacher, own, 0.5)["loss"] + more}


def main(folder):
    config = FitConfig(steps=3, lr=0.01, precision="fp32", warmup=0.0)
    with session("cpu") as processes:
        every = (supervised, distilled, partial(taught, kl=False), partial(taught, kl=True))
        for name, loss_of in zip(LOSSES, every, strict=True):
            model = net(0)
            if processes.first:
                save_weights(folder / name / "begin.safetensors", model)
            fit(model, Crops(processes), loss_of, config, folder / name, facts={}, processes=processes)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
