import numpy as np
import pytest
import torch

from rsedge.errors import InputError
from rsedge_train.nets import build_student, registry
from rsedge_train.nets.deploy import deploy


def test_logits_have_the_inputs_size_and_the_classes():
    net = build_student("mobilenetv3_small_100", 5).eval()
    assert net(torch.randn(2, 3, 64, 96)).shape == (2, 5, 64, 96)
    assert net.stride == 8


def test_sizes_that_are_no_multiple_of_32_are_refused():
    net = build_student("mobilenetv3_small_100", 5).eval()
    with pytest.raises(InputError, match="multiples of 32"):
        net(torch.randn(1, 3, 64, 60))


def test_one_class_is_refused():
    with pytest.raises(InputError, match="2 or more"):
        build_student("mobilenetv3_small_100", 1)


@pytest.mark.slow
def test_a_student_trains_on_two_tiles_of_512():
    net = registry.build("efficientnet_b0", 5).train()
    logits = net(torch.randn(2, 3, 512, 512))
    assert logits.shape == (2, 5, 512, 512)
    logits.square().mean().backward()
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("name", [*registry.names("student"), *registry.names("edge")])
def test_every_student_trains(name):
    net = registry.build(name, 5).train()
    logits = net(torch.randn(2, 3, 64, 64))
    logits.square().mean().backward()
    missing = [n for n, p in net.named_parameters() if p.grad is None]
    assert not missing


@pytest.mark.filterwarnings("ignore")  # torch's exporter warns of its own parts
@pytest.mark.parametrize(
    ("name", "tile", "rewritten"),
    [
        pytest.param("mobilenetv3_small_100-w64", 256, False, marks=pytest.mark.slow),
        ("mobilenetv2_100-w64-sep-int8", 256, True),
        pytest.param("maflnet-s", 128, True, marks=pytest.mark.slow),
    ],
)
def test_students_export_and_match_onnx_runtime(tmp_path, name, tile, rewritten):
    ort = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    net = registry.build(name, 5).eval()
    net = deploy(net, tile) if rewritten else net
    path = tmp_path / "student.onnx"
    torch.onnx.export(
        net,
        (torch.randn(2, 3, tile, tile),),
        str(path),
        dynamo=True,
        opset_version=18,
        input_names=["image"],
        dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},),
        external_data=False,
        verbose=False,
    )
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for batch in (1, 3):
        x = torch.randn(batch, 3, tile, tile)
        with torch.no_grad():
            expected = net(x).numpy()
        found = np.asarray(session.run(None, {"image": x.numpy()})[0])
        assert np.abs(found - expected).max() <= 1e-4 * np.ptp(expected)
        assert (found.argmax(1) == expected.argmax(1)).mean() >= 0.9999
