"""Compare pseudo-labels with the true speakers, as a diagnostic: no recipe depends on the result.

If the speakers are not known, it prints so and exits without an error.

    python local/diagnose_clusters.py --labels exp/mini_csc/round1/pseudo_labels.tsv \\
        --speakers data/mini/train/speakers.tsv
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cslib.clustering import compare
from cslib.config import UserError, run
from cslib.data.labels import read_table
from cslib.evaluation.speakers import read_speakers
from cslib.files import write_json


@dataclass
class Options:
    labels: Path  # pseudo-labels, from cluster_embeddings.py
    speakers: Path  # data/<corpus>/<set>/speakers.tsv
    out: Path | None = None  # .json file to write the figures to


def main(options: Options) -> None:
    table = {name: label for name, label in read_table(options.labels).items() if label != "-1"}
    try:
        speakers = read_speakers(options.speakers, list(table))
    except UserError as reason:
        print(f"clusters were not compared with speakers: {reason}")
        return
    scores = compare(list(table.values()), speakers.tolist())
    clusters = len(set(table.values()))
    if options.out:
        write_json(options.out, {"clusters": clusters, "kept": len(table), **scores})
    print(
        f"{len(table):,} utterances, {clusters:,} clusters, {len(set(speakers)):,} speakers: "
        f"NMI {scores['nmi']:.3f}, ARI {scores['ari']:.3f}, purity {scores['purity']:.3f}"
    )


if __name__ == "__main__":
    run(main, Options)
