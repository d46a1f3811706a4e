"""Cluster embeddings into pseudo-labels. The number of clusters is given, or chosen without labels.

    python local/cluster_embeddings.py --embeddings exp/mini_csc/embeddings/train.scp \\
        --out exp/mini_csc/round1/pseudo_labels.tsv

Writes `utterance<TAB>label` (-1 = rejected) and, beside it, clusters.json with the candidates and the choice. With
--previous, it also compares the labels with those of the previous round, and writes a file `settled` if they hardly
changed. With --compare and --others, it clusters the embeddings of several systems and of pairs of them, keeps the
labels of the best quality (the mean silhouette, 0 for rejected utterances), and writes `settled` if the last system has
no part in them: then the last round has not made the labels better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cslib.clustering import ClusterConfig, Clustering, cluster_best, compare, summary
from cslib.config import UserError, run
from cslib.data.embeddings import read_embeddings
from cslib.data.labels import read_table, write_labels
from cslib.files import warn, write_json, write_lines


@dataclass(kw_only=True)
class Options(ClusterConfig):
    embeddings: Path  # .scp of the training set, from extract_embeddings.py, of the last system
    others: str = ""  # .scp files of the systems before it, separated by commas; used with --compare
    compare: bool = False  # also cluster --others and pairs of systems, and keep the best labels
    out: Path  # pseudo-labels to write
    previous: Path | None = None  # pseudo-labels of the previous round, to compare with
    settled_nmi: float = 0.99  # NMI with --previous (1 = identical) from which the labels count as settled


def main(options: Options) -> None:
    ids, embeddings = read_systems(options)
    best, results = cluster_best(embeddings, options)
    result = results[best]
    show(result)
    if options.choose in ("silhouette", "stability") and not options.clusters:
        warn_at_edges(result)
    report = summary(result, options)
    settled = None
    if options.previous:
        report["agreement_with_previous"] = agreement = agreement_with(options.previous, ids, result)
        print(f"agreement with the previous labels: NMI {agreement['nmi']:.3f}, ARI {agreement['ari']:.3f}")
        settled = reason_to_stop(agreement["nmi"], options.settled_nmi)
    if len(results) > 1:
        report["systems"] = compared(results)
        show_systems(report["systems"], best)
        if options.previous and system_of(options.embeddings) not in best.split(" + "):
            settled = f"the best labels come from {best}: the last system has not made them better"
    mark_settled(options.out.with_name("settled"), settled)
    write_json(options.out.with_name("clusters.json"), report)
    write_labels(options.out, ids, result.labels)
    print(
        f"{options.out}: {len(ids) - result.rejected:,} of {len(ids):,} utterances in {result.clusters:,} "
        f"clusters, {result.rejected:,} rejected"
    )


def read_systems(options: Options) -> tuple[list[str], dict[str, np.ndarray]]:
    """Ids of the utterances, and the embeddings of each system by name, the last one first."""
    files = [options.embeddings]
    if options.compare:
        files += [Path(name) for name in options.others.split(",") if name]
    ids, systems = read_embeddings(files[0])[0], {}
    for file in files:
        others, systems[system_of(file)] = read_embeddings(file)
        if others != ids:
            raise UserError(f"{file}: has other utterances than {files[0]}; extract the embeddings of one set")
    if len(systems) < len(files):
        raise UserError(f"--others: two files are of one system: {', '.join(map(str, files))}")
    return ids, systems


def system_of(embeddings: Path) -> str:
    """Name of a system: of the folder that has the folder with its embeddings."""
    return embeddings.absolute().parent.parent.name


def compared(results: Mapping[str, Clustering]) -> list[dict[str, Any]]:
    """One row per system or pair of systems, for clusters.json."""
    return [
        {"system": name, "clusters": one.clusters, "rejected": one.rejected, "quality": one.quality}
        for name, one in results.items()
    ]


def show_systems(rows: Sequence[Mapping[str, Any]], best: str) -> None:
    """Print the systems as a table, with a mark at the chosen one."""
    width = max(len(row["system"]) for row in rows)
    print(f"{'system':<{width}}  clusters  rejected  quality")
    for row in rows:
        mark = " <" if row["system"] == best else ""
        print(f"{row['system']:<{width}}  {row['clusters']:>8,}  {row['rejected']:>8,}  {row['quality']:>7.3f}{mark}")


def warn_at_edges(result: Clustering) -> None:
    """Warn when the best number of clusters is the smallest or the largest candidate: the optimum may lie beyond."""
    if "fewest" in result.table[0]:  # formed by density
        return
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


def reason_to_stop(nmi: float, enough: float) -> str | None:
    """Why another round would change little; None if it may change more."""
    return f"NMI {nmi:.4f} with the previous labels, at least {enough:.4f}" if nmi >= enough else None


def mark_settled(file: Path, reason: str | None) -> None:
    """Write `file` with the reason why the rounds end here, or remove it. No reason needs true labels."""
    file.unlink(missing_ok=True)
    if reason:
        write_lines(file, [reason])
        print(f"the labels have settled ({reason}): more rounds would change little")


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
