"""Export an embedding network as one file for other programs: ONNX or TorchScript.

    python -m cslib export models/speaker.pt --out model.onnx
    python -m cslib export models/speaker.pt --out model.pt

Input: waveforms [B, T], float32, 16 kHz, in [-1, 1], at least half a second long; the graph computes the features.
Output: embeddings [B, E] of length 1, whose dot product is the score of `verify`. Unlike `embed`, the graph neither
detects silence nor splits long recordings (over a minute; over 20 s for a separating network). In Python:

    session = onnxruntime.InferenceSession("model.onnx")
    embedding, = session.run(None, {"waveform": audio[None]})

The file is kept only if its embeddings match those of the network on recordings of several lengths. TorchScript is for
CPUs; ONNX runs on GPUs as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from cslib.checkpoints import load_speaker_encoder
from cslib.config import UserError, positional
from cslib.files import writing
from cslib.inference import export


@dataclass(kw_only=True)
class Options:
    checkpoint: Path = positional()  # models/speaker.pt; best.pt or final.pt of a run
    out: Path  # file to write, X.onnx or X.pt


KINDS = {
    ".onnx": ("ONNX", export.write_onnx, export.open_onnx, "onnxruntime"),
    ".pt": ("TorchScript", export.write_torchscript, export.open_torchscript, "TorchScript"),
}


def main(options: Options) -> None:
    if options.out.suffix not in KINDS:
        raise UserError(f"--out is {options.out}; it must end in .onnx or .pt")
    if options.out.resolve() == options.checkpoint.resolve():
        raise UserError(f"--out is {options.out}, which is the checkpoint; give another name")
    network = load_speaker_encoder(options.checkpoint)
    assert isinstance(network, nn.Module)
    format_name, write, open_graph, runtime = KINDS[options.out.suffix]
    with writing(options.out) as temporary:
        write(network, temporary)
        graph = open_graph(temporary)
        cosine = export.lowest_cosine(network, graph)
        if not cosine > export.ENOUGH:
            raise UserError(
                f"{options.out}: not written, as the embeddings of the exported {type(network).__name__} differ from "
                f"those of the network (cosine {cosine:.4f}); please report it with the config"
            )
        factors = export.real_time_factor(network.embed), export.real_time_factor(graph)
    print(
        f"{options.out}: {format_name}, {options.out.stat().st_size / 1e6:.1f} MB, waveform [B, T] -> embedding "
        f"[B, {network.embedding_size}]"
    )
    print(
        f"matches the network on recordings of {min(export.LENGTHS):g} to {max(export.LENGTHS):g} s: cosine at least "
        f"{cosine:.6f}"
    )
    threads = torch.get_num_threads()
    print(
        f"real-time factor on 10 s of audio, {threads} thread{'s' * (threads > 1)}: {factors[0]:.4f} in PyTorch, "
        f"{factors[1]:.4f} in {runtime}"
    )
