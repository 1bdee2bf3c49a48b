"""One training, from a data set to a run folder: a teacher, a student alone, or a distilled student."""

from __future__ import annotations

import copy
import logging
import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rsedge.errors import RsedgeError
from rsedge.files import writing
from rsedge.score.labels import unpack_color
from rsedge_train.data import Dataset, Scan, SceneScan, scan
from rsedge_train.data.apart import check_held_out
from rsedge_train.data.appearance import LOOKS
from rsedge_train.data.augment import CropAugment
from rsedge_train.data.base import IGNORE, TAUGHT
from rsedge_train.data.crops import Crops, CropSource, SceneStore
from rsedge_train.data.leaks import overlapping
from rsedge_train.data.unlabelled import scan_unlabelled
from rsedge_train.fit.loop import FitResult, StepLoss, fit
from rsedge_train.fit.losses import distillation_loss, supervised_loss, taught_loss
from rsedge_train.fit.precision import autocast_dtype
from rsedge_train.fit.processes import SINGLE, Processes, pick_device
from rsedge_train.fit.state import BEST_NAME, LAST_NAME, STATE_NAME, check_resumable
from rsedge_train.look.curves import draw_curves
from rsedge_train.look.logbook import BOARD_NAME, LOG_NAME, Logbook, NoLog
from rsedge_train.look.scores import SCORES_NAME, Scores
from rsedge_train.nets.deploy import fold_dilations
from rsedge_train.nets.fake_int8 import settle
from rsedge_train.nets.network import SegNet
from rsedge_train.run.folder import RUN_NAME, Run, load_network
from rsedge_train.run.pictures import draw_comparison
from rsedge_train.run.quantized import (
    calibrate_on,
    imitation,
    load_base,
    quantization_facts,
    quantization_loss,
)
from rsedge_train.run.request import Distillation, Job
from rsedge_train.run.setup import (
    build_net,
    check_classes,
    check_folder,
    check_present,
    check_taught,
    class_weights,
    encoder_facts,
    label_doubts,
    scene_weights,
    schedule,
)
from rsedge_train.run.teachers import Member, Teachers, load_member, teacher_facts
from rsedge_train.run.validate import score, summary

log = logging.getLogger(__name__)

CURVES_NAME, SHEET_NAME = "curves.png", "sheet.png"


class StoppedError(RsedgeError):
    """Training stopped on request, with its state saved."""

    exit_code = 130


def train(job: Job, dataset: Dataset, processes: Processes = SINGLE) -> Run:
    """Train, write a run folder (see ``run_folder``) and return its description.

    Raises InputError for settings or data that do not match, TrainingDivergedError, OutputError, and
    StoppedError when stopped by a signal: the run can then be resumed.
    """
    return _Training(job, dataset, processes).run()


class _Training:
    def __init__(self, job: Job, dataset: Dataset, processes: Processes) -> None:
        self.job, self.dataset, self.processes = job, dataset, processes
        self.device = pick_device(job.device, processes)
        if processes.first:
            check_folder(job)
        check_classes(dataset)
        check_taught(job, dataset)
        self.scanned = scan(dataset, dataset.train, skip_damaged=job.skip_damaged)
        self.left_out = list(self.scanned.skipped)
        self.val, self.val_sha256 = self._check_val()
        check_present(dataset, (*self.scanned.scenes, *self.val), allow_missing=job.allow_missing)
        self._check_ground()
        self.unlabelled = self._scan_unlabelled()
        if job.compare:
            Run.read(job.compare)  # needed only at the end, but fail early
        self.teacher: Teachers | None = None
        self.teacher_facts: Mapping[str, Any] | None = None
        self.teacher_rehearses = False
        if job.distillation:
            self._load_teachers(job.distillation)
        torch.manual_seed(job.crops.seed)
        self.base: Member | None = None
        if job.quantization:
            self.base = load_base(job, job.quantization, dataset)
            self.encoder_weights = self.base.run.settings.get("encoder_weights")
            self.net = imitation(self.base)
        else:
            self.encoder_weights = encoder_facts(job)
            self.net = build_net(job.net, dataset.num_classes, empty=job.resume)
        self.source = self._source()
        self.config = schedule(job, self.scanned)
        for name, why in self.left_out:
            log.warning("note: skipped %s: %s", name, why)
        bare = self.unlabelled.notes if self.unlabelled else ()
        for note in (*self.scanned.notes, *bare, *label_doubts(dataset, (*self.scanned.scenes, *self.val))):
            log.info("note: %s", note)

    def run(self) -> Run:
        job, folder = self.job, self.job.out
        resume_at = None
        if job.resume:
            resume_at = check_resumable(folder / STATE_NAME, self._resume_facts()).step
            log.info("resuming at step %d of %d", resume_at, self.config.steps)
        if self.processes.first:
            self._open_folder()
        scores = Scores(folder, resume_at)
        if self.base and not job.resume:
            calibrate_on(self.net.to(self.device), self._crops("none"), self.device)
        with Logbook(folder, resume_at) if self.processes.first else NoLog() as book:
            averaged, result = fit(
                self.net,
                self.source,
                self._loss(),
                self.config,
                folder,
                facts=self._resume_facts(),
                device=self.device,
                pretrained_encoder=job.net.has_pretrained_encoder,
                resume=job.resume,
                validate=(lambda net, step: self._validate(net, step, scores)) if self.val else None,
                log=book.log,
                finish=settle if self.base else lambda averaged: averaged,
                processes=self.processes,
            )
        if result.stopped:
            raise StoppedError(
                f"stopped after {result.position.step} of {self.config.steps} steps. Resume with the same command "
                "and --resume"
            )
        run = replace(self._facts(), progress=self._progress(result, scores))
        if self.processes.first:
            run.write(folder)
            draw_curves(folder / LOG_NAME, folder / CURVES_NAME, f"{run.network}, {self.dataset.name}")
            self._draw_sheet(averaged)
        return run

    def _check_val(self) -> tuple[tuple[SceneScan, ...], str]:
        """Return the readable validation scenes and their hash, before training so that errors come early."""
        if not self.dataset.val:
            return (), ""
        files = tuple(f.for_scoring() for f in self.dataset.val)
        found = scan(self.dataset, files, skip_damaged=self.job.skip_damaged, images=True)
        self.left_out += found.skipped
        return found.scenes, found.sha256

    def _check_ground(self) -> None:
        """Warn if validation scenes overlap training scenes, because scores would be too good."""
        for problem in overlapping({"train": self.scanned.scenes, "val": self.val, "test": ()}):
            log.warning("%s; scores will be too good; split by scene (--val)", problem)

    def _scan_unlabelled(self) -> Scan | None:
        if not self.dataset.unlabelled:
            return None
        found = scan_unlabelled(self.dataset, skip_damaged=self.job.skip_damaged)
        self.left_out += found.skipped
        check_held_out(self.dataset, found.scenes, self.val)
        return found

    def _open_folder(self) -> None:
        """Create the folder with a first run.json, removing what an earlier run left."""
        with writing(self.job.out):
            if self.job.overwrite and not self.job.resume:
                self._forget_earlier()
            self.job.out.mkdir(parents=True, exist_ok=True)
            self._facts().write(self.job.out)

    def _forget_earlier(self) -> None:
        """Remove the files of an earlier run and nothing else in its folder."""
        names = (STATE_NAME, LAST_NAME, BEST_NAME, SCORES_NAME, LOG_NAME, CURVES_NAME, SHEET_NAME)
        for name in (RUN_NAME, *names):
            (self.job.out / name).unlink(missing_ok=True)
        shutil.rmtree(self.job.out / BOARD_NAME, ignore_errors=True)

    def _draw_sheet(self, averaged: nn.Module) -> None:
        columns: list[tuple[str, nn.Module]] = []
        if self.job.compare:
            columns.append(("student alone", load_network(self.job.compare)[0].to(self.device)))
        assert isinstance(averaged, SegNet)
        mine = fold_dilations(copy.deepcopy(averaged), self.job.crops.size)
        columns.append(("distilled" if self.teacher else self.job.role, mine))
        if self.teacher:
            columns.append(("teacher", self.teacher))
        scenes = self.val or self.scenes
        draw_comparison(self.job.out / SHEET_NAME, self.dataset, scenes, columns, self.device)

    def _load_teachers(self, wanted: Distillation) -> None:
        members = [load_member(folder, wanted.weights, self.dataset) for folder in wanted.teachers]
        rehearsals = [m.folder for m in members if m.run.rehearsal]
        self.teacher_rehearses = bool(rehearsals)
        if rehearsals and not self.job.rehearsal:
            log.warning(
                "the teacher in %s is a rehearsal (--quick), so this student is also one", rehearsals[0]
            )
        self.teacher = Teachers([m.net for m in members], wanted.views).eval().requires_grad_(False)
        self.teacher = self.teacher.to(self.device).to(memory_format=torch.channels_last)
        self.teacher_facts = teacher_facts(members)

    def _source(self) -> CropSource:
        job = self.job
        scenes = (*self.scanned.scenes, *(self.unlabelled.scenes if self.unlabelled else ()))
        self.store = SceneStore(self.dataset, scenes, job.ram_bytes // self.processes.count)
        self.left_out += self.store.load(job.skip_damaged)
        self.scenes = [s for s in self.store.scans if s.files.label]
        self.bare = [s for s in self.store.scans if not s.files.label]
        return self._crops(job.crops.look)

    def _crops(self, look: str) -> CropSource:
        job = self.job
        crops = Crops(
            self.store,
            job.crops,
            CropAugment(job.crops.size, look=LOOKS[look]),
            weights=scene_weights(
                self.store, job.sample_share, job.unlabelled.share if job.unlabelled else None
            ),
            rank=self.processes.rank,
            world=self.processes.count,
            skip_damaged=job.skip_damaged,
        )
        return CropSource(crops, job.workers, pin=self.device.type == "cuda")

    def _loss(self) -> StepLoss:
        weight = class_weights(self.scanned).to(self.device) if self.job.class_weights else None
        teacher, wanted = self.teacher, self.job.distillation
        if self.base and self.job.quantization:
            return quantization_loss(self.base, self.job.quantization, weight, self.device, teacher, wanted)
        if teacher is None or wanted is None:
            return lambda model, images, labels: supervised_loss(model(images), labels, weight)

        def distil(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
            # On a CPU the teacher runs in full precision; on a GPU that would take longer than the student.
            with torch.autocast(self.device.type, enabled=self.device.type == "cuda"):
                target = teacher(images)
            student = model(images)
            more = wanted.unlabelled
            own = labels if more is None else torch.where(labels == TAUGHT, IGNORE, labels)
            losses = distillation_loss(
                student, target, own, wanted.temperature, wanted.relation_weight, weight
            )
            if more is None:
                return losses
            by_confidence = more.confidence != "none"
            taught = taught_loss(
                student, target, labels, wanted.temperature, kl=more.loss == "kl", by_confidence=by_confidence
            )
            return {**losses, **taught, "loss": losses["loss"] + more.weight * taught["unlabelled"]}

        return distil

    def _validate(self, net: nn.Module, step: int, scores: Scores) -> Mapping[str, float]:
        assert isinstance(net, SegNet)
        manifest, crop = self._facts().manifest("validation"), self.job.crops.size
        result = score(net, self.dataset, [s.files for s in self.val], manifest, crop, self.device)
        facts = summary(result.confusion, self.dataset.table.names, self.dataset.uncounted)
        scores.add({"step": step, **facts})
        log.info("validation mIoU %.4f, OA %.4f", facts["miou"], facts["oa"])
        return {"val_miou": facts["miou"], "val_oa": facts["oa"]}

    def _facts(self) -> Run:
        job, data = self.job, self.dataset
        settings = {
            "net": {k: str(v) if isinstance(v, Path) else v for k, v in asdict(job.net).items()},
            "crops": asdict(job.crops),
            "fit": asdict(self.config),
            "encoder_weights": self.encoder_weights,
            "class_weights": job.class_weights,
            "processes": self.processes.count,
            "device": str(self.device),
            "torch": torch.__version__,
        }
        if job.distillation:
            asked = {k: v for k, v in asdict(job.distillation).items() if v is not None}
            settings["distillation"] = {**asked, "teachers": [str(f) for f in job.distillation.teachers]}
        teacher = self.teacher_facts
        if job.quantization and self.base:
            told = {
                "label_weight": job.quantization.label_weight,
                "signed_share": job.quantization.signed_share,
            }
            settings["quantization"] = {**quantization_facts(self.base, self.net), **told}
            teacher = teacher or self.base.run.teacher
        return Run(
            role=job.role,
            network=job.net.name,
            classes=data.table.classes,
            bands=data.bands.names,
            crop=job.crops.size,
            unlabelled=tuple(map(unpack_color, data.table.ignore)),
            gsd_m=data.gsd_m,
            uncounted=data.uncounted,
            rehearsal=job.rehearsal or self.teacher_rehearses or bool(self.base and self.base.run.rehearsal),
            data={**self._data_facts(), "source": job.source},
            settings=settings,
            teacher=teacher,
        )

    def _data_facts(self) -> dict[str, Any]:
        data, counts = self.dataset, np.sum([s.counts for s in self.scenes], axis=0)
        shares = counts / max(1, counts.sum())
        return {
            "name": data.name,
            "train": sorted({s.files.scene for s in self.scenes}),
            "val": sorted({s.files.scene for s in self.val}),
            "test": sorted({f.scene for f in data.test}),
            "labels_scored": "eroded boundaries"
            if any(f.scoring_label for f in data.val)
            else "as trained on",
            "train_mpx": round(sum(s.height * s.width for s in self.scenes) / 1e6, 2),
            "class_shares": {n: round(float(v), 4) for n, v in zip(data.table.names, shares, strict=True)},
            "sample_share": self.job.sample_share,
            "sha256": self.scanned.sha256,
            "left_out": sorted(name for name, _ in self.left_out),
            "notes": list(data.notes),
            **({"unlabelled": self._unlabelled_facts(self.unlabelled)} if self.unlabelled else {}),
        }

    def _unlabelled_facts(self, found: Scan) -> dict[str, Any]:
        bands = self.dataset.bands_of(self.dataset.unlabelled[0])
        return {
            "rasters": len(self.bare),
            "pixels": sum(int(s.counts.sum()) for s in self.bare),  # with data
            "names": [s.files.name for s in self.bare],
            "bands": {"indexes": bands.indexes, "scale": bands.scale, **asdict(bands.masking)},
            "sha256": found.sha256,
        }

    def _resume_facts(self) -> dict[str, Any]:
        """Return the facts that a resumed run must share with the original."""
        fitting = {
            k: v
            for k, v in asdict(self.config).items()
            if k not in {"log_every", "save_every_s", "precision"}
        }
        teacher = self.teacher_facts["sha256"] if self.teacher_facts else None
        distillation = asdict(self.job.distillation) if self.job.distillation else {}
        quantization = asdict(self.job.quantization) if self.job.quantization else None
        base = self.base and self.base.facts["sha256"]
        return {
            "network": self.job.net.name,
            "classes": list(self.dataset.table.names),
            "data": self.scanned.sha256,
            "val": self.val_sha256,
            "left_out": sorted(name for name, _ in self.left_out),
            "net": {"encoder_weights": self.job.net.has_pretrained_encoder},
            "arithmetic": str(autocast_dtype(self.config.precision, self.device)),
            "crops": asdict(self.job.crops),
            "fit": fitting,
            "teacher": teacher,
            "quantization": quantization and {**quantization, "run": base},
            "distillation": {k: v for k, v in distillation.items() if k not in {"teachers", "weights"}},
            "sample_share": self.job.sample_share,
            "class_weights": self.job.class_weights,
            "unlabelled": self.unlabelled.sha256 if self.unlabelled else None,
        }

    def _progress(self, result: FitResult, scores: Scores) -> dict[str, Any]:
        position = result.position
        facts: dict[str, Any] = {
            "steps": position.step,
            "seconds": round(position.seconds, 1),
            "seconds_per_step": round(result.seconds_per_step, 4),
            "wait_share": round(result.wait_share, 4),
        }
        if scores.all:
            facts |= {"val_last": scores.all[-1], "best_step": position.best_step, "val_best": scores.best()}
        return facts
