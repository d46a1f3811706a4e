"""Cluster embeddings into pseudo-labels; the number of clusters is given, or chosen without any label.

    python local/cluster_embeddings.py --embeddings exp/mini_csc/embeddings/train.scp \\
        --out exp/mini_csc/round1/pseudo_labels.tsv

Writes `utterance<TAB>label` (-1 = rejected) and, beside it, clusters.json: what was weighed and what was
chosen. Given the labels of the round before, it also says whether they have settled: a file `settled`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cslib.clustering import ClusterConfig, Clustering, cluster, compare, summary
from cslib.config import run
from cslib.data.embeddings import read_embeddings
from cslib.data.labels import read_table, write_labels
from cslib.files import write_json, write_lines


@dataclass(kw_only=True)
class Options(ClusterConfig):
    embeddings: Path  # what extract_embeddings.py wrote for the training set, <out>.scp
    out: Path  # pseudo-labels to write
    previous: Path | None = None  # pseudo-labels of the round before: how alike they are tells when to stop
    settled_nmi: float = 0.99  # with labels so alike (1 = the same), a file `settled` is made beside the new ones


def main(options: Options) -> None:
    ids, embeddings = read_embeddings(options.embeddings)
    result = cluster(embeddings, options)
    show(result)
    if options.choose != "threshold" and not options.clusters:
        tell_of_edges(result)
    report = summary(result, options)
    if options.previous:
        report["agreement_with_previous"] = agreement = agreement_with(options.previous, ids, result)
        print(f"like the labels of the round before: NMI {agreement['nmi']:.3f}, ARI {agreement['ari']:.3f}")
        mark_settled(options.out.with_name("settled"), agreement["nmi"], options.settled_nmi)
    write_json(options.out.with_name("clusters.json"), report)
    write_labels(options.out, ids, result.labels)
    print(
        f"{options.out}: {len(ids) - result.rejected:,} of {len(ids):,} utterances in {result.clusters:,} "
        f"clusters, {result.rejected:,} rejected"
    )


def tell_of_edges(result: Clustering) -> None:
    """A best number with worse ones on one side only may be no best number at all."""
    if result.chosen == result.table[-1]["clusters"]:
        print("the largest candidate came out best: there may be more clusters, see --candidates, --centroids")
    elif result.chosen == result.table[0]["clusters"]:
        print(
            "WARNING: the smallest candidate came out best: there may be fewer clusters, see --candidates, or none at "
            "all, as with one recording of each speaker; training on these labels then harms"
        )


def mark_settled(file: Path, nmi: float, enough: float) -> None:
    """The rule that ends the rounds: no label is needed to see that the clusters no longer change."""
    file.unlink(missing_ok=True)
    if nmi >= enough:
        write_lines(file, [f"NMI {nmi:.4f} with the round before, {enough:.4f} is enough"])
        print("the labels have settled: more rounds would change little")


def show(result: Clustering) -> None:
    """The candidates as a table, the chosen one marked."""
    columns = list(result.table[0])
    print("  ".join(f"{name:>11}" for name in columns))
    for row in result.table:
        mark = " <" if row["clusters"] == result.chosen else ""
        print(
            "  ".join(f"{row[name]:>11,}" if isinstance(row[name], int) else f"{row[name]:>11.3f}" for name in columns)
            + mark
        )


def agreement_with(previous: Path, ids: list[str], result: Clustering) -> dict[str, float]:
    """NMI and ARI on the utterances that neither round rejected."""
    table = read_table(previous)
    pairs = [
        (label, table[name])
        for name, label in zip(ids, result.labels, strict=True)
        if label >= 0 and table.get(name, "-1") != "-1"
    ]
    labels, others = zip(*pairs, strict=True)
    return {name: value for name, value in compare(labels, others).items() if name != "purity"}


if __name__ == "__main__":
    run(main, Options)
