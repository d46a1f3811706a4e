"""Collect the scores of one enhancement run: results.json, a printed table and a plot of spectrograms.

    python local/make_enhancement_results.py --exp exp/mini_crn --corpus mini --backbone crn --seed 1 \\
        --test data/mini_pairs/test --noisy data/mini_pairs/noisy.tsv --seconds exp/mini_crn/seconds.json

Reads <exp>/scores/<system>.tsv and the same table of the noisy recordings (both from local/score_enhancement.py),
<exp>/<system>/log.jsonl, for the steps at which negatives were beaten, and the networks, to time them. Writes
<exp>/results.json and <exp>/spectrograms.png. A recording for which a measure fails with one system is left out for
all. Gains are computed on paired recordings; their 95 % intervals cover the choice of recordings, not that of the
training seed.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from cslib.checkpoints import load, load_enhancer
from cslib.config import UserError, run
from cslib.data.manifests import SAMPLE_RATE
from cslib.data.pairs import PairedUtterances, read_conditions
from cslib.datasets.augmentation import to_float
from cslib.evaluation.enhanced_folders import Scores, measured_in_all, resampled_means
from cslib.evaluation.run_folders import provenance
from cslib.evaluation.spectrogram_plots import plot_spectrograms
from cslib.evaluation.speech_quality import HEADLINE, MEASURES
from cslib.feature_spaces.base import FeatureSpaceConfig, describe
from cslib.files import aligned, write_json

ORDER = ("noisy", "none", "positive", "cr", "ccr")  # of the systems; others follow by name
SHOWN = ("noisy", "none", "ccr")  # in the plot, above the clean speech
COMPARED = ("pesq", "si_sdr")  # measures of which gains over `none` are computed
TIMED_SECONDS, PASSES = 10.0, 20  # audio that each network is timed on, and number of passes


@dataclass
class Options:
    exp: Path  # run folder
    corpus: str  # mini, folder, voicebank
    backbone: str  # name of the network
    seed: int  # of the training
    test: Path  # data/<corpus>/test, the pairs that were scored
    noisy: Path  # scores of the noisy recordings
    mixing: str = "once"  # how training pairs were mixed: once, or anew for every crop
    space: FeatureSpaceConfig | None = None  # what features the regulariser compared
    negatives: str = ""  # networks that made them, by the share of the steps, in percent, that each learnt for
    recipe: str = "voicebank"  # folder of the recipe under egs/
    systems: str = ""  # systems to include, separated by commas (default: all that were scored)
    seconds: Path | None = None  # JSON {part of the run: seconds it took}
    commits: Path | None = None  # JSON {part of the run: commit of the code that made it}


def main(options: Options) -> None:
    folder = options.exp / "scores"
    asked = [folder / f"{name}.tsv" for name in options.systems.split(",") if name]
    paths = asked or folder.glob("*.tsv")
    found = {path.stem: Scores.read(path) for path in paths}
    if not found:
        raise UserError(f"{options.exp}/scores: has no scores; run local/score_enhancement.py first")
    found["noisy"] = Scores.read(options.noisy)
    systems = sorted(found, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))
    whole, costs = measured_in_all(found), real_time_factors(options, systems)
    rows = [
        {
            "system": name,
            "backbone": options.backbone,
            "seed": options.seed,
            **_row(found[name], whole),
            **costs.get(name, {}),
            **training(options.exp / name),
        }
        for name in systems
    ]
    differences = [
        _difference(name, found[name].only(whole), found["none"].only(whole))
        for name in systems
        if "none" in found and name not in ("noisy", "none")
    ]
    beaten = {name: switches(options.exp / name / "log.jsonl") for name in systems}
    write_json(
        options.exp / "results.json",
        {
            "recipe": options.recipe,
            "corpus": options.corpus,
            "method": options.backbone,
            "seed": options.seed,
            "mixing": options.mixing,
            "space": describe(options.space) if options.space else "",
            "negatives": [int(share) for share in options.negatives.split()],
            **provenance(options.seconds, options.commits),
            "rows": rows,
            "over_none": differences,
            "negatives_beaten_at_step": {name: steps for name, steps in beaten.items() if steps is not None},
        },
    )
    print(table(rows))
    _print_comparisons(differences, beaten)
    _picture(options, systems)


def _row(scores: Scores, whole: np.ndarray) -> dict[str, Any]:
    """Means over the recordings `whole`, bool [n], those that have all measures with every system."""
    means, intervals = scores.only(whole).means(), scores.only(whole).intervals()
    return {
        **{name: means[name] for name in HEADLINE},
        **{f"{name}_ci95": intervals[name] for name in COMPARED},
        "files": len(scores.names),
        "failed": len(scores.failures()),
    }


def training(folder: Path) -> dict[str, Any]:
    """Training steps of a network, and the weight of its regulariser."""
    path = folder / "checkpoints" / "final.pt"
    if not path.exists():
        return {}
    state = load(path)
    weight = state["config"].get("objective", {}).get("regulariser", {}).get("weight")
    return {"steps": state["step"]} | ({} if weight is None else {"regulariser_weight": weight})


def real_time_factors(options: Options, systems: list[str]) -> dict[str, dict[str, Any]]:
    """Number of parameters and real-time factor of every system that has a network.

    All networks enhance the same recording in turn, several times, and the fastest pass of each counts: networks of
    equal size then differ only by the resolution of the clock.
    """
    paths = {name: options.exp / name / "checkpoints" / "final.pt" for name in systems}
    networks = {name: load_enhancer(path) for name, path in paths.items() if path.exists()}
    noisy = PairedUtterances.open(options.test).read(0)[0][: round(TIMED_SECONDS * SAMPLE_RATE)]
    audio, lengths = to_float(torch.from_numpy(noisy))[None], torch.tensor([len(noisy)])
    fastest = dict.fromkeys(networks, math.inf)
    for _ in range(PASSES):
        for name, network in networks.items():
            began = time.perf_counter()
            with torch.inference_mode():
                network.enhance(audio, lengths)
            fastest[name] = min(fastest[name], time.perf_counter() - began)
    return {
        name: {
            "parameters": sum(p.numel() for p in network.parameters()),
            "real_time_factor": fastest[name] * SAMPLE_RATE / len(noisy),
        }
        for name, network in networks.items()
    }


def _difference(name: str, scores: Scores, base: Scores) -> dict[str, Any]:
    """Mean gain over the system `base` on the same recordings, and its 95 % interval."""
    gains = (scores.values - base.values)[:, [MEASURES.index(measure) for measure in COMPARED]]
    low, high = np.quantile(resampled_means(gains), [0.025, 0.975], axis=0)
    result: dict[str, Any] = {"system": name}
    for column, measure in enumerate(COMPARED):
        result |= {
            measure: float(gains[:, column].mean()),
            f"{measure}_ci95": [float(low[column]), float(high[column])],
        }
    return result


def switches(log: Path) -> list[int | None] | None:
    """The step at which each negative was beaten, to within a log line; None for a negative that never was.

    None in place of the list where there is no curriculum.
    """
    if not log.exists():
        return None
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    lines = [line for line in lines if "beaten" in line]
    if not lines:
        return None
    count = sum(name.startswith("quality_") for name in lines[0])
    # Before the first validation, the quality is that of the noisy speech, which beats no negative.
    return [
        next((line["step"] for line in lines if line["beaten"] and line["best_quality"] > line[f"quality_{k}"]), None)
        for k in range(1, count + 1)
    ]


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in aligned columns."""
    digits = {"stoi": 3, "estoi": 3}
    cells = [["system", *HEADLINE, "PESQ 95 %", "files", "failed", "parameters", "real time"]]
    for row in rows:
        low, high = row["pesq_ci95"]
        cells.append(
            [
                row["system"],
                *(f"{row[name]:.{digits.get(name, 2)}f}" for name in HEADLINE),
                f"[{low:.2f}, {high:.2f}]",
                f"{row['files']:,}",
                str(row["failed"]),
                f"{row['parameters']:,}" if "parameters" in row else "-",
                f"{row['real_time_factor']:.3f}" if "real_time_factor" in row else "-",
            ]
        )
    return aligned(cells)


def _print_comparisons(differences: list[dict[str, Any]], beaten: dict[str, list[int | None] | None]) -> None:
    for one in differences:
        pesq, sdr = ([one[name], *one[f"{name}_ci95"]] for name in COMPARED)
        print(
            f"{one['system']} over none: PESQ {pesq[0]:+.3f} [{pesq[1]:+.3f}, {pesq[2]:+.3f}], "
            f"SI-SDR {sdr[0]:+.2f} dB [{sdr[1]:+.2f}, {sdr[2]:+.2f}]"
        )
    for name, steps in beaten.items():
        if steps is not None:
            print(
                f"{name}: negatives beaten by step "
                + ", ".join("never" if step is None else f"{step:,}" for step in steps)
            )


def _picture(options: Options, systems: list[str]) -> None:
    """Plot one recording of moderate SNR, the same for every run on this test set."""
    pairs = PairedUtterances.open(options.test)
    snrs = sorted(
        (condition.snr, name) for name, condition in read_conditions(options.test).items() if condition.snr is not None
    )
    name = snrs[len(snrs) // 3][1] if snrs else pairs.id(0)
    noisy, clean = pairs.read(pairs.ids().index(name)) / 32768
    signals = {"noisy": noisy}
    for system in SHOWN[1:]:
        path = options.exp / system / "enhanced" / options.test.name / f"{name}.wav"
        if system in systems and path.exists():
            signals[system] = soundfile.read(path)[0]
    plot_spectrograms(
        {**signals, "clean": clean}, options.exp / "spectrograms.png", f"{options.corpus}, {options.backbone}, {name}"
    )


if __name__ == "__main__":
    run(main, Options)
