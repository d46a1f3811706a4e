r"""Error rates along a training: those of every encoder that was kept of it, for its learning curve.

    python local/train.py ... --exp exp/run --training.checkpoint_every 200 --training.keep_every 200
    python local/score_checkpoints.py --exp exp/run --trials data/mini/test/trials/clean.txt
    python local/plot_training.py --runs exp/run --out exp/run/curves

Writes exp/run/error_rates.json, {step: {"eer <list>": percent}}, by cosine alone. To be looked at: a training that is
stopped, or chosen, by these has seen the speakers of the test.
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
from local import extract_embeddings


@dataclass
class Options:
    exp: Path  # run folder with checkpoints/encoder-*.pt
    trials: str  # trial lists, data/<set>/trials/<list>.txt, with commas between
    device: str = "auto"  # cpu, cuda, ...; auto takes a GPU when there is one
    workers: int = 2  # processes that decode audio


def main(options: Options) -> None:
    encoders = checkpoints.kept(options.exp / "checkpoints")
    if not encoders:
        raise UserError(f"{options.exp}: no encoder was kept; train with --training.keep_every N")
    lists = [Path(path) for path in options.trials.split(",")]
    rates = {
        step: {f"eer {trials.stem}": error_rate(options, encoder, trials) for trials in lists}
        for step, encoder in progress(encoders.items(), "checkpoints", total=len(encoders))
    }
    write_json(options.exp / "error_rates.json", rates)
    for step, values in rates.items():
        print(f"step {step:,}: " + ", ".join(f"{name} {value:.2f} %" for name, value in values.items()))


def error_rate(options: Options, encoder: Path, trial_list: Path) -> float:
    """EER in percent of a list, by the cosine of what this encoder makes of its set."""
    cuts = trial_list.parents[1]
    out = options.exp / "kept_embeddings" / encoder.stem / cuts.name
    extract_embeddings.main(
        extract_embeddings.Options(encoder, cuts, out, device=options.device, workers=options.workers)
    )
    trials = read_trials(trial_list)
    ids, embeddings = read_embeddings(out.with_name(f"{out.name}.scp"))
    embeddings = unit_embeddings(embeddings[trials.rows_in(ids, str(out))])
    return equal_error_rate(cosine_scores(embeddings, trials.enrol_index, trials.test_index), trials.targets)


if __name__ == "__main__":
    run(main, Options)
