r"""Error rates along a training: score every encoder that it kept, for the learning curve.

    python local/train.py ... --exp exp/run --training.checkpoint_every 200 --training.keep_every 200
    python local/score_checkpoints.py --exp exp/run --trials data/mini/test/trials/clean.txt
    python local/plot_training.py --runs exp/run --out exp/run/curves

Writes exp/run/error_rates.json, {step: {"eer <list>": percent}}, from cosine scores. For diagnosis only: a training
stopped or selected by these rates has seen the test speakers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cslib import checkpoints
from cslib.config import UserError, run
from cslib.data.embeddings import read_embeddings
from cslib.data.trials import read_trials
from cslib.evaluation.cosine import cosine_scores, unit_embeddings
from cslib.evaluation.error_rates import equal_error_rate
from cslib.files import progress, write_json
from cslib.inference.extraction import extract_set


@dataclass
class Options:
    exp: Path  # run folder with checkpoints/encoder-*.pt
    trials: str  # trial lists, data/<set>/trials/<list>.txt, separated by commas
    device: str = "auto"  # cpu, cuda, ...; auto: the GPU if there is one
    workers: int = 2  # processes that decode audio


def main(options: Options) -> None:
    encoders = checkpoints.kept(options.exp / "checkpoints")
    if not encoders:
        raise UserError(f"{options.exp}: no kept encoders; train with --training.keep_every N")
    lists = [Path(path) for path in options.trials.split(",")]
    rates = {
        step: {f"eer {trials.stem}": error_rate(options, encoder, trials) for trials in lists}
        for step, encoder in progress(encoders.items(), "checkpoints", total=len(encoders))
    }
    write_json(options.exp / "error_rates.json", rates)
    for step, values in rates.items():
        print(f"step {step:,}: " + ", ".join(f"{name} {value:.2f} %" for name, value in values.items()))


def error_rate(options: Options, encoder: Path, trial_list: Path) -> float:
    """EER in percent of a trial list, from cosine scores of this encoder's embeddings."""
    cuts = trial_list.parents[1]
    out = options.exp / "kept_embeddings" / encoder.stem / cuts.name
    extract_set(encoder, cuts, out, device=options.device, workers=options.workers)
    trials = read_trials(trial_list)
    ids, embeddings = read_embeddings(out.with_name(f"{out.name}.scp"))
    units = unit_embeddings(embeddings[trials.rows_in(ids, str(out))])
    return equal_error_rate(cosine_scores(units, trials.enrol_index, trials.test_index), trials.targets)


if __name__ == "__main__":
    run(main, Options)
