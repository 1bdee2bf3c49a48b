import pytest

from rsedge.infer.inputs import resample_by


@pytest.mark.parametrize(
    ("gsd_m", "trained", "factor"),
    [
        (0.5, (0.25, 1.0), 1),
        (0.5002, (0.5, 0.5), 1),  # UTM on its meridian
        (0.4998, (0.5, 0.5), 1),
        (0.5002, (1.0, 1.0), 2),
        (0.09996, (0.3, 0.6), 3),
        (2.0008, (0.25, 1.0), 0.5),
        (0.75, (1.0, 1.0), 4 / 3),
        (0.6, (0.3, 0.5), 5 / 6),
    ],
)
def test_pixels_become_as_long_as_the_model_knows_them(
    gsd_m: float, trained: tuple[float, float], factor: float
) -> None:
    assert resample_by(gsd_m, trained) == pytest.approx(factor, rel=1e-12)
