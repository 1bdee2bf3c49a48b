import json

import pytest

from rsedge.errors import InputError
from rsedge_train.nets.authors import TABLE_4
from rsedge_train.nets.table import ModelRow, PaperRow, model_row, models_table

NAMES = ("efficientnet_b0", "efficientnet_b0-w64-sep", "arafnet-t-tiny")


def test_the_table_as_json():
    rows = {row["name"]: row for row in json.loads(models_table(True, NAMES))}
    assert tuple(rows) == NAMES
    paper = rows["efficientnet_b0"]["paper"]
    assert paper["printed"]["flops_g"] == 56.36
    assert paper["difference"]["flops_g"] == pytest.approx(paper["flops_g"] - 56.36)
    assert rows["efficientnet_b0"]["num_classes"] == 6
    assert rows["efficientnet_b0-w64-sep"]["paper"] is None
    assert rows["arafnet-t-tiny"]["role"] == "teacher"


def test_the_table_as_text():
    text = models_table(False, NAMES)
    assert "6.717" in text
    assert "56.36 / 56.36" in text
    assert "multiply-accumulate" in text
    assert max(map(len, text.splitlines())) < 180


def test_rows_check_themselves():
    counts = model_row("efficientnet_b0").counts
    with pytest.raises(InputError):
        ModelRow("pupil", "ARAFNet", "x", counts, None)
    with pytest.raises(InputError):
        PaperRow(0.0, 1.0, 1.0, TABLE_4["resnet18"])
