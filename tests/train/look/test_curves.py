from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from rsedge.errors import InputError, OutputError
from rsedge_train.look.curves import draw_curves, smoothed
from rsedge_train.look.logbook import Logbook


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were saved, for a look at what they hold."""
    figures: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda f, *a, **k: (figures.append(f), save(f, *a, **k))[1])
    return figures


def write(folder: Path, *rows: dict[str, float]) -> Path:
    with Logbook(folder) as book:
        for step, values in enumerate(rows, 1):
            book.log(step, values)
    return book.path


def labels(figure: Figure) -> list[list[str]]:
    return [[t.get_text() for t in ax.get_legend().get_texts()] for ax in figure.axes if ax.get_legend()]


def test_a_full_log_gives_both_panels(tmp_path: Path, drawn: list[Figure]) -> None:
    scores = [0.3, 0.7, 0.6]
    log = write(
        tmp_path, *({"loss": 2.0, "ce": 1.0, "lr": 1e-3, "val_miou": s, "val_oa": 0.9} for s in scores)
    )
    draw_curves(log, tmp_path / "c.png", "costs $5 and $6")  # no formula
    losses, validation = labels(drawn[0])
    assert losses == ["total", "cross-entropy", "learning rate (right)"]
    assert validation == ["overall accuracy", "mIoU", "best mIoU, 70.0 % at step 2"]
    star = drawn[0].axes[1].lines[-1]
    assert (star.get_xdata()[0], star.get_ydata()[0]) == (2, 70)
    with Image.open(tmp_path / "c.png") as picture:
        assert picture.format == "PNG"
        assert np.asarray(picture.convert("L")).std() > 5
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.png", "log.csv", "tensorboard"]


def test_panels_without_values_are_left_out(tmp_path: Path, drawn: list[Figure]) -> None:
    draw_curves(write(tmp_path, {"loss": 2.0}, {"loss": 1.0}), tmp_path / "c.png", "losses")
    draw_curves(write(tmp_path, {"val_miou": 0.5}), tmp_path / "c.png", "scores")
    draw_curves(write(tmp_path, {"val_oa": 0.5, "loss": float("nan")}), tmp_path / "c.png", "no mIoU")
    assert [labels(f) for f in drawn] == [
        [["total"]],
        [["mIoU", "best mIoU, 50.0 % at step 1"]],
        [["overall accuracy"]],
    ]


def test_the_first_high_losses_do_not_set_the_scale(tmp_path: Path, drawn: list[Figure]) -> None:
    draw_curves(
        write(tmp_path, *({"loss": 100.0 if i < 2 else 1.0} for i in range(300))), tmp_path / "c.png", ""
    )
    assert 1 < drawn[0].axes[0].get_ylim()[1] < 5


def test_a_title_in_any_script_is_drawn(tmp_path: Path) -> None:
    draw_curves(write(tmp_path, {"loss": 2.0}), tmp_path / "c.png", "土地 Straße")
    assert (tmp_path / "c.png").exists()


@pytest.mark.parametrize("rows", [[], [{"lr": 0.1}], [{"loss": float("nan")}]])
def test_nothing_to_draw_is_an_input_error(tmp_path: Path, rows: list[dict[str, float]]) -> None:
    with pytest.raises(InputError, match="neither losses nor scores"):
        draw_curves(write(tmp_path, *rows), tmp_path / "c.png", "empty")
    assert not (tmp_path / "c.png").exists()


def test_a_missing_folder_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        draw_curves(write(tmp_path, {"loss": 1.0}), tmp_path / "none" / "c.png", "")


@pytest.mark.parametrize("n", [1, 39, 80, 1000])
def test_smoothing_keeps_length_and_a_constant(n: int) -> None:
    np.testing.assert_allclose(smoothed(np.full(n, 3.0)), np.full(n, 3.0))


def test_smoothing_is_a_mean_around_each_point() -> None:
    values = np.random.default_rng(0).normal(size=200)
    mean = smoothed(values)  # over 5 values
    assert mean[100] == pytest.approx(values[98:103].mean())
    assert mean[0] == pytest.approx(values[:3].mean())
