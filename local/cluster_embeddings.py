"""Cluster embeddings into pseudo-labels. The number of clusters is given, or chosen without labels.

    python local/cluster_embeddings.py --embeddings exp/mini_csc/embeddings/train.scp \\
        --out exp/mini_csc/round1/pseudo_labels.tsv

Writes `utterance<TAB>label` (-1 = rejected) and, beside it, clusters.json with the candidates and the choice. With
--previous, it also compares the labels with those of the previous round, and writes a file `settled` if they hardly
changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cslib.clustering import ClusterConfig, Clustering, cluster, compare, summary
from cslib.config import UserError, run
from cslib.data.embeddings import read_embeddings
from cslib.data.labels import read_table, write_labels
from cslib.files import warn, write_json, write_lines


@dataclass(kw_only=True)
class Options(ClusterConfig):
    embeddings: Path  # .scp of the training set, from extract_embeddings.py
    out: Path  # pseudo-labels to write
    previous: Path | None = None  # pseudo-labels of the previous round, to compare with
    settled_nmi: float = 0.99  # NMI with --previous (1 = identical) from which the labels count as settled


def main(options: Options) -> None:
    ids, embeddings = read_embeddings(options.embeddings)
    result = cluster(embeddings, options)
    show(result)
    if options.choose != "threshold" and not options.clusters:
        warn_at_edges(result)
    report = summary(result, options)
    if options.previous:
        report["agreement_with_previous"] = agreement = agreement_with(options.previous, ids, result)
        print(f"agreement with the previous labels: NMI {agreement['nmi']:.3f}, ARI {agreement['ari']:.3f}")
        mark_settled(options.out.with_name("settled"), agreement["nmi"], options.settled_nmi)
    write_json(options.out.with_name("clusters.json"), report)
    write_labels(options.out, ids, result.labels)
    print(
        f"{options.out}: {len(ids) - result.rejected:,} of {len(ids):,} utterances in {result.clusters:,} "
        f"clusters, {result.rejected:,} rejected"
    )


def warn_at_edges(result: Clustering) -> None:
    """Warn when the best number of clusters is the smallest or the largest candidate: the optimum may lie beyond."""
    if result.chosen == result.table[-1]["clusters"]:
        warn(
            "the largest candidate came out best; there may be more clusters, so give larger --candidates or more "
            "--centroids"
        )
    elif result.chosen == result.table[0]["clusters"]:
        warn(
            "the smallest candidate came out best; there may be fewer clusters (give smaller --candidates) or none, as "
            "with one recording per speaker, where training on these labels is harmful"
        )


def mark_settled(file: Path, nmi: float, enough: float) -> None:
    """Write `file` if the labels have settled. This stopping rule of the rounds needs no true labels."""
    file.unlink(missing_ok=True)
    if nmi >= enough:
        write_lines(file, [f"NMI {nmi:.4f} with the previous labels, at least {enough:.4f}"])
        print("the labels have settled: more rounds would change little")


def show(result: Clustering) -> None:
    """Print the candidates as a table, with a mark at the chosen one."""
    columns = list(result.table[0])
    print("  ".join(f"{name:>11}" for name in columns))
    for row in result.table:
        mark = " <" if row["clusters"] == result.chosen else ""
        print(
            "  ".join(f"{row[name]:>11,}" if isinstance(row[name], int) else f"{row[name]:>11.3f}" for name in columns)
            + mark
        )


def agreement_with(previous: Path, ids: list[str], result: Clustering) -> dict[str, float]:
    """NMI and ARI on the utterances that neither round rejected. Raises UserError when there is no such utterance."""
    table = read_table(previous)
    pairs = [
        (label, table[name])
        for name, label in zip(ids, result.labels, strict=True)
        if label >= 0 and table.get(name, "-1") != "-1"
    ]
    if not pairs:
        raise UserError(f"{previous}: labels none of the utterances to compare; give the labels of the same set")
    labels, others = zip(*pairs, strict=True)
    return {name: value for name, value in compare(labels, others).items() if name != "purity"}


if __name__ == "__main__":
    run(main, Options)
