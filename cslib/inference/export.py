"""Export an embedding network as one graph from waveform to vector, for programs without this project.

Exporters support neither complex numbers nor framing. In a copy of the network, these are replaced by products with
real matrices that give the same values; the network itself keeps its fast Fourier transform. An exported graph is
compared with the network before it is kept.

Shapes: B recordings, T samples, L frames, N bands, C streams, E embedding.
"""

from __future__ import annotations

import copy
import importlib.util
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cslib.config import UserError
from cslib.data.manifests import SAMPLE_RATE
from cslib.models.base import SpeakerEncoder
from cslib.models.galr import SeparativeEncoder
from cslib.models.layers.features import FRAME_LENGTH, FRAME_SHIFT, LOG_FLOOR, PREEMPHASIS, LogMel, with_edges
from cslib.models.layers.filterbanks import FourierFilterbank, overlapped

REQUIREMENTS = Path(__file__).parents[2] / "requirements_onnx.txt"
ONNX_PACKAGES = ("onnx", "onnxruntime")
OPSET = 17  # version of ONNX's operators, of 2022
LENGTHS = (0.5, 1.27, 3.0, 8.9)  # seconds of the recordings on which a graph is compared with its network
ENOUGH = 0.9999  # least cosine of the two embeddings of a recording

Embed = Callable[[Tensor], Tensor]


class Exportable(nn.Module):
    """waveform [B, T], 16 kHz, in [-1, 1] -> embeddings [B, E] of length 1."""

    network: nn.Module

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).eval()
        for parent in list(self.network.modules()):
            for name, child in list(parent.named_children()):
                for kind, replacement in REPLACEMENTS.items():
                    if type(child) is kind:
                        setattr(parent, name, replacement(child))

    def forward(self, waveform: Tensor) -> Tensor:
        return F.normalize(self.embed(waveform), dim=-1)

    def embed(self, waveform: Tensor) -> Tensor:
        return self.network(waveform)


class ExportableSeparator(Exportable):
    """The same for a separating network: the embedding of the stream with the highest energy, of whole recordings."""

    network: SeparativeEncoder

    def __init__(self, network: SeparativeEncoder) -> None:
        super().__init__(network)
        if isinstance(self.network.embedding_norm, nn.BatchNorm1d):
            self.network.embedding_norm = FixedNorm(self.network.embedding_norm)

    def embed(self, waveform: Tensor) -> Tensor:
        lengths = torch.ones_like(waveform[:, 0], dtype=torch.long) * waveform.shape[1]
        streams, embeddings = self.network(waveform, lengths)
        strongest = fitted_energy(streams, waveform, self.network.config.streams).argmax(1)
        chosen = strongest[:, None, None].expand(-1, 1, embeddings.shape[2])
        return embeddings.gather(1, chosen)[:, 0]


class ConvolvedLogMel(nn.Module):
    """LogMel for recordings without padding. Its steps before the squares are linear (mean subtraction, pre-emphasis,
    window, transform): here they are one convolution.
    """

    kernel: Tensor  # [2 N, 1, frame]
    filters: Tensor  # [2 N, bands]

    def __init__(self, like: LogMel) -> None:
        super().__init__()
        self.snip_edges = like.snip_edges
        self.register_buffer("kernel", spectral_kernel(like.window[:FRAME_LENGTH], len(like.window)))
        self.register_buffer("filters", like.filters[::2].repeat(2, 1))  # all real parts, then all imaginary parts

    def forward(self, audio: Tensor, lengths: None = None) -> Tensor:
        """audio [B, T] -> [B, L, bands]."""
        audio = with_edges(audio * 32768, self.snip_edges, None)
        power = F.conv1d(audio[:, None], self.kernel, stride=FRAME_SHIFT).square()
        return (power.transpose(1, 2) @ self.filters).clamp(min=LOG_FLOOR).log()


class ProductFourier(nn.Module):
    """FourierFilterbank whose spectrum is real, [B, L, 2 N]: all real parts, then all imaginary parts."""

    kernel: Tensor  # [2 N, 1, window]
    inverse: Tensor  # [2 N, window]

    def __init__(self, like: FourierFilterbank) -> None:
        super().__init__()
        self.bands, self.hop = like.bands, like.hop
        window = like.shape.double()
        forwards = fourier_matrix(len(window))  # [2 N, window]
        # The spectrum of a real signal is symmetric: all bands but the first and the last count twice.
        twice = torch.full((self.bands,), 2.0, dtype=torch.float64)
        twice[0] = twice[-1] = 1.0
        backwards = forwards * twice.repeat(2)[:, None] / len(window)
        self.register_buffer("kernel", (forwards * window)[:, None].float())  # [2 N, 1, window]
        self.register_buffer("inverse", (backwards * window).float())  # [2 N, window]

    def analyse(self, padded: Tensor) -> tuple[Tensor, Tensor]:
        """[B, T] -> magnitudes [B, L, N], parts [B, L, 2 N]."""
        parts = F.conv1d(padded[:, None], self.kernel, stride=self.hop).transpose(1, 2)
        real, imaginary = parts[..., : self.bands], parts[..., self.bands :]
        return (real.square() + imaginary.square() + 1e-12).sqrt(), parts

    def synthesise(self, masks: Tensor, parts: Tensor) -> Tensor:
        """masks [B, L, C, N], parts of `analyse` -> [B, C, T]."""
        masked = torch.cat([masks, masks], dim=-1).transpose(1, 2) * parts[:, None]
        return overlapped(masked @ self.inverse, self.hop)


class PlainAttention(nn.Module):
    """Self-attention as nn.MultiheadAttention computes it, batch first. That class reads sizes during tracing, which
    the ONNX exporter would turn into constants.
    """

    def __init__(self, like: nn.MultiheadAttention) -> None:
        super().__init__()
        self.like = like

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, key_padding_mask: Tensor, need_weights: bool = False
    ) -> tuple[Tensor, None]:
        """query [R, S, D], also used as key and value; key_padding_mask bool [R, S] -> [R, S, D]."""
        heads, size = self.like.num_heads, self.like.embed_dim
        projected = F.linear(query, self.like.in_proj_weight, self.like.in_proj_bias)
        parts = projected.reshape(query.shape[0], query.shape[1], 3, heads, size // heads).transpose(1, 3)
        queries, keys, values = parts.unbind(2)  # [R, heads, S, D / heads] each
        scores = queries @ keys.transpose(2, 3) / math.sqrt(size // heads)
        weights = scores.masked_fill(key_padding_mask[:, None, None], -math.inf).softmax(-1)
        return self.like.out_proj((weights @ values).transpose(1, 2).reshape(query.shape[0], -1, size)), None


class FixedNorm(nn.Module):
    """A batch norm without weights, of vectors [B, D], in eval mode; ONNX would have to infer D from the graph."""

    mean: Tensor  # [D]
    scale: Tensor  # [D]

    def __init__(self, like: nn.BatchNorm1d) -> None:
        super().__init__()
        assert like.running_mean is not None and like.running_var is not None
        self.register_buffer("mean", like.running_mean)
        self.register_buffer("scale", (like.running_var + like.eps).rsqrt())

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) * self.scale


REPLACEMENTS = {LogMel: ConvolvedLogMel, FourierFilterbank: ProductFourier, nn.MultiheadAttention: PlainAttention}


class Unflattening(TorchFunctionMode):
    """Makes Tensor.unflatten a reshape; the ONNX exporter would turn the sizes of the former into constants."""

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if function is not Tensor.unflatten:
            return function(*args, **(kwargs or {}))
        x, dim, sizes = args
        dim %= x.dim()
        return x.reshape(*x.shape[:dim], *sizes, *x.shape[dim + 1 :])


def fourier_matrix(size: int) -> Tensor:
    """float64 [2 N, size]: its product with a real signal [size] is the spectrum of N = size / 2 + 1 bands, first all
    real parts, then all imaginary parts.
    """
    angles = 2 * math.pi / size * torch.outer(torch.arange(size // 2 + 1), torch.arange(size)).double()
    return torch.cat([angles.cos(), -angles.sin()])


def spectral_kernel(window: Tensor, size: int) -> Tensor:
    """[2 N, 1, frame]: its product with the samples of a frame is the `size`-point transform of the frame after mean
    subtraction, pre-emphasis and the window [frame]. The window begins with a zero, so that the sample before the
    frame, which pre-emphasis would need, does not matter.
    """
    rows = fourier_matrix(size)[:, : len(window)] * window.double()
    emphasised = rows - PREEMPHASIS * F.pad(rows[:, 1:], (0, 1))
    return (emphasised - (1 - PREEMPHASIS) * rows.mean(1, keepdim=True))[:, None].float()


def fitted_energy(streams: Tensor, mixture: Tensor, count: int) -> Tensor:
    """galr.fitted_energy, [B, C], of `count` streams [B, C, T], by Gaussian elimination: ONNX has no solver."""
    energy = streams.square().sum(-1)
    ridge = 1e-4 * energy + 1e-8  # for the diagonal; an identity matrix would be tied to the device of the tracing
    rows = list(torch.cat([streams @ streams.transpose(1, 2), streams @ mixture[..., None]], dim=2).unbind(1))
    rows = [row + F.pad(ridge[:, place : place + 1], (place, count - place)) for place, row in enumerate(rows)]
    for pivot in range(count):  # without pivoting: the matrix is positive definite
        rows[pivot] = rows[pivot] / rows[pivot][:, pivot : pivot + 1]
        for other in set(range(count)) - {pivot}:
            rows[other] = rows[other] - rows[other][:, pivot : pivot + 1] * rows[pivot]
    gains = torch.stack([row[:, -1] for row in rows], dim=1)
    return gains.square() * energy


def exportable(network: nn.Module) -> Exportable:
    """A copy of the network in which every module can be exported."""
    return ExportableSeparator(network) if isinstance(network, SeparativeEncoder) else Exportable(network)


def write_torchscript(network: nn.Module, path: Path) -> None:
    """Write the network as TorchScript, for CPUs."""
    with _tracing():
        torch.jit.trace(exportable(network), recording(2, 3.0), check_trace=False).save(str(path))


def write_onnx(network: nn.Module, path: Path) -> None:
    """Write the network, which has an `embedding_size`, as ONNX.

    Raises UserError when a package is missing, or ONNX lacks an operator that the network needs.
    """
    require_packages()
    import onnx

    try:
        with _tracing(), Unflattening():
            # By tracing, as for TorchScript: the newer exporter needs one more package and fails on our networks.
            torch.onnx.export(
                exportable(network),
                (recording(2, 3.0),),
                str(path),
                input_names=["waveform"],
                output_names=["embedding"],
                dynamic_axes={"waveform": {0: "batch", 1: "samples"}, "embedding": {0: "batch"}},
                opset_version=OPSET,
                dynamo=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise UserError(
            f"{type(network).__name__} cannot be exported as ONNX ({str(error).splitlines()[0]}); export "
            "it as TorchScript, with --out model.pt"
        ) from None
    model = onnx.load(path)
    size = network.embedding_size
    assert isinstance(size, int)
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = size  # the exporter may not have inferred it
    onnx.save(model, path)


def open_torchscript(path: Path) -> Embed:
    """The graph of a file that `write_torchscript` wrote."""
    with _tracing():
        module = torch.jit.load(str(path))
    return lambda waveform: module(waveform)


def open_onnx(path: Path) -> Embed:
    """The graph of a file that `write_onnx` wrote, run by onnxruntime. Raises UserError when a package is missing."""
    require_packages()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda waveform: torch.from_numpy(session.run(None, {"waveform": waveform.numpy()})[0])


def require_packages() -> None:
    """Raise UserError, with the command that installs them, when packages for ONNX are missing."""
    missing = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"exporting ONNX needs {' and '.join(missing)}: run '{sys.executable} -m pip install -r "
            f"{REQUIREMENTS}', or export TorchScript, with --out model.pt"
        )


@torch.inference_mode()
def lowest_cosine(network: SpeakerEncoder, graph: Embed) -> float:
    """Lowest cosine between embeddings of the network and of the graph, over several lengths and batch sizes."""
    cosines = []
    for number, seconds in enumerate(LENGTHS):
        waveform = recording(1 + 2 * (number % 2), seconds)
        cosines.append(F.cosine_similarity(network.embed(waveform), graph(waveform)).min())
    return float(torch.stack(cosines).min())


@torch.inference_mode()
def real_time_factor(embed: Embed, seconds: float = 10.0) -> float:
    """Computing time per second of audio, the best of five runs after two warm-up runs."""
    waveform, times = recording(1, seconds), []
    for _ in range(7):
        began = time.perf_counter()
        embed(waveform)
        times.append(time.perf_counter() - began)
    return min(times[2:]) / seconds


def recording(batch: int, seconds: float) -> Tensor:
    """Noise [B, T] whose level rises and falls like that of speech; the same for every call."""
    generator = torch.Generator().manual_seed(batch)
    samples = round(seconds * SAMPLE_RATE)
    noise = torch.randn(batch, samples + 1, generator=generator)
    swell = 1 + torch.sin(torch.arange(samples) * (2 * math.pi * 4 / SAMPLE_RATE))
    return 0.05 * swell * (noise[:, 1:] + 0.9 * noise[:, :-1])


@contextmanager
def _tracing() -> Iterator[None]:
    """Without operators that tracing cannot record, and without its warnings: the result is checked anyway."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
