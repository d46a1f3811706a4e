"""Exported graphs give what the networks give; the parts that are replaced give what they replace."""

import pytest
import torch

from cslib.commands import export
from cslib.config import UserError
from cslib.inference import export as graphs
from cslib.inference.export import ConvolvedLogMel, ProductFourier, exportable, recording
from cslib.models import galr
from cslib.models.layers.features import LogMel
from cslib.models.layers.filterbanks import FourierFilterbank
from tests.commands.tiny import MASKED, build, call, save

SEPARATING = {"galr": None, "masked galr": MASKED}


@pytest.mark.parametrize("snip_edges", [False, True])
@pytest.mark.parametrize("samples", [4000, 8131])
def test_convolved_features_are_the_features(snip_edges, samples):
    features = LogMel(24, snip_edges=snip_edges)
    audio = recording(2, samples / 16000) + 0.02  # with an offset, which every frame loses
    torch.testing.assert_close(ConvolvedLogMel(features)(audio), features(audio), atol=2e-4, rtol=0)


def test_products_are_the_fourier_filterbank():
    complex_one, generator = FourierFilterbank(400), torch.Generator().manual_seed(0)
    real_one, audio = ProductFourier(complex_one), recording(2, 0.5)
    (magnitudes, spectrum), (found, parts) = complex_one.analyse(audio), real_one.analyse(audio)
    torch.testing.assert_close(found, magnitudes, atol=1e-5, rtol=1e-4)
    masks = torch.rand(*magnitudes.shape[:2], 3, magnitudes.shape[2], generator=generator)
    torch.testing.assert_close(
        real_one.synthesise(masks, parts), complex_one.synthesise(masks, spectrum), atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("count", [1, 2, 3])
def test_energies_by_elimination_are_those_by_the_solver(count):
    streams = torch.randn(4, count, 500, generator=torch.Generator().manual_seed(count))
    streams[0, -1] = streams[0, 0]  # copies are solvable, and so is silence
    streams[1, -1] = 0
    mixture = streams.sum(1) + 0.1
    torch.testing.assert_close(
        graphs.fitted_energy(streams, mixture, count), galr.fitted_energy(streams, mixture), rtol=1e-2, atol=1e-3
    )


@pytest.mark.parametrize("name", ["resnet", "res2net", "ecapa", *SEPARATING])
def test_exportable_network_embeds_like_the_network(name):
    network = build(name.split()[-1], SEPARATING.get(name))
    with torch.no_grad():
        found, audio = exportable(network)(recording(3, 1.1)), recording(3, 1.1)
        expected = torch.nn.functional.normalize(network.embed(audio), dim=-1)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
    # The network that was given keeps its own features.
    assert not any(isinstance(part, (ConvolvedLogMel, ProductFourier)) for part in network.modules())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pt", "onnx"])
@pytest.mark.parametrize("name", ["resnet", "res2net", "ecapa", *SEPARATING])
def test_exported_graph_is_the_network_for_any_length_and_batch(name, kind, tmp_path, capsys):
    if kind == "onnx":
        pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    network = save(tmp_path / "final.pt", name.split()[-1], SEPARATING.get(name))
    out = tmp_path / f"model.{kind}"
    call(export, tmp_path / "final.pt", "--out", out)
    printed = capsys.readouterr().out
    assert "waveform [B, T] -> embedding [B, 8]" in printed and "real-time factor on 10 s of audio, " in printed
    assert "cosine at least 1.0" in printed or "cosine at least 0.9999" in printed
    if kind == "onnx":
        import onnx

        shape = onnx.load(out).graph.output[0].type.tensor_type.shape.dim
        assert (shape[0].dim_param, shape[1].dim_value) == ("batch", 8)
    graph = {"pt": graphs.open_torchscript, "onnx": graphs.open_onnx}[kind](out)
    for batch, seconds in ((1, 0.61), (5, 2.3), (2, 6.01), (1, 2.3023), (1, 1.0069)):  # frames end in several ways
        audio = recording(batch, seconds) * 3
        found = graph(audio)
        with torch.inference_mode():
            expected = network.embed(audio)
        assert torch.cosine_similarity(found, expected).min() > 0.9999
        torch.testing.assert_close(found.norm(dim=1), torch.ones(batch))


def test_graph_that_gives_something_else_is_not_kept(tmp_path, monkeypatch):
    save(tmp_path / "final.pt", "resnet")

    def write_another(network, path):
        graphs.write_torchscript(build("resnet", seed=1), path)

    monkeypatch.setitem(export.KINDS, ".pt", ("TorchScript", write_another, graphs.open_torchscript, "TorchScript"))
    with pytest.raises(UserError, match="not written, as the embeddings of the exported ResNet differ"):
        call(export, tmp_path / "final.pt", "--out", tmp_path / "model.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["final.pt"]


def test_missing_packages_are_asked_for(tmp_path, monkeypatch):
    save(tmp_path / "final.pt", "resnet")
    monkeypatch.setattr(graphs, "ONNX_PACKAGES", ("onnx_of_the_future", "torch"))
    with pytest.raises(UserError, match=r"needs onnx_of_the_future: run '.* -m pip install -r .*requirements_onnx"):
        call(export, tmp_path / "final.pt", "--out", tmp_path / "model.onnx")
    assert graphs.REQUIREMENTS.is_file() and [path.name for path in tmp_path.iterdir()] == ["final.pt"]


def test_an_operator_that_onnx_lacks_is_named(tmp_path):
    pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")

    class Spectral(torch.nn.Module):
        def forward(self, audio):
            return torch.fft.rfft(audio).abs()[:, :8]

    with pytest.raises(UserError, match="Spectral cannot be exported as ONNX .*fft_rfft.*--out model.pt"):
        graphs.write_onnx(Spectral(), tmp_path / "model.onnx")


def test_mistakes_are_one_sentence(tmp_path):
    save(tmp_path / "final.pt", "resnet")
    save(tmp_path / "enhancer.pt", "mask_gru")
    before = (tmp_path / "final.pt").read_bytes()
    for checkpoint, out, told in (
        ("final.pt", "model.bin", "it must end in .onnx or .pt"),
        ("final.pt", "final.pt", "which is the checkpoint"),
        ("enhancer.pt", "model.pt", "MaskGru, makes no embeddings"),
    ):
        with pytest.raises(UserError, match=told):
            call(export, tmp_path / checkpoint, "--out", tmp_path / out)
    assert (tmp_path / "final.pt").read_bytes() == before and not (tmp_path / "model.pt").exists()
