r"""Collect what a run tells without labels: results.json and a table, for a run that has no test trials.

    python local/make_label_free_results.py --exp exp/folder_csc --recipe voxceleb --corpus folder --method csc \
        --seed 1 --systems floor=exp/folder_csc/floor,csc=exp/folder_csc,round1=exp/folder_csc/round1

results.json has the keys that local/make_results.py writes, with empty "rows" and one more key "label_free": a list
with an object per system. A value that a system does not have is null.

    system      its name
    network     its final.pt
    halves      share of halves of recordings whose nearest half, by cosine, is the other one of their recording
    retrieval   the same share of held-out recordings in the last line of its training's log, where one is logged
    clusters    number of clusters made from its embeddings
    quality     of these clusters: the mean silhouette, from -1 to 1, with 0 for utterances in no cluster
    nmi         agreement of these clusters with those made from the system before it

None is an error rate. halves and retrieval reward knowledge of the recording channel, too.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cslib.config import UserError, run
from cslib.data.embeddings import read_embeddings
from cslib.evaluation.halves import retrieval_of_halves
from cslib.evaluation.run_folders import provenance
from cslib.files import aligned, read_json, write_json

SHARES = ("halves", "retrieval", "quality", "nmi")


@dataclass
class Options:
    exp: Path  # run folder
    recipe: str  # folder of the recipe under egs/
    corpus: str  # folder, ...
    method: str  # csc, dino, ...
    seed: int  # of the training
    systems: str  # NAME=FOLDER of every system, separated by commas, in the order of training
    halves: str = "train_halves"  # set of halves, whose embeddings are in <folder>/embeddings
    seconds: Path | None = None  # JSON {part of the run: seconds it took}
    commits: Path | None = None  # JSON {part of the run: commit of the code that made it}


def main(options: Options) -> None:
    systems = {name: Path(folder) for name, _, folder in (one.partition("=") for one in options.systems.split(","))}
    if not all(folder.is_dir() for folder in systems.values()):
        raise UserError(f"--systems is {options.systems}; it must be NAME=FOLDER,..., each the folder of a system")
    followers = [*list(systems.values())[1:], None]
    rows = [
        {"system": name, **signs(folder, options.halves), **clusters_of(folder, follower)}
        for (name, folder), follower in zip(systems.items(), followers, strict=True)
    ]
    write_json(
        options.exp / "results.json",
        {
            "recipe": options.recipe,
            "corpus": options.corpus,
            "method": options.method,
            "seed": options.seed,
            **provenance(options.seconds, options.commits),
            "rows": [],
            "label_free": rows,
        },
    )
    print(table(rows))


def signs(folder: Path, halves: str) -> dict[str, Any]:
    """What a system tells by itself: where its network is, and the two shares."""
    network = folder / "checkpoints" / "final.pt"
    return {
        "network": str(network) if network.exists() else None,
        "halves": retrieval_of_halves(*read_embeddings(folder / "embeddings" / f"{halves}.scp")),
        "retrieval": last_line(folder / "log.jsonl").get("retrieval"),
    }


def clusters_of(folder: Path, follower: Path | None) -> dict[str, Any]:
    """The clusters made from a system's embeddings, which are in the folder of the system that was trained next."""
    path = follower / "clusters.json" if follower else None
    if not path or not path.exists():
        return {"clusters": None, "quality": None, "nmi": None}
    found = read_json(path)
    # If several systems were compared, the labels may be those of another one.
    own = next((row for row in found.get("systems", []) if row["system"] == folder.absolute().name), found)
    return {
        "clusters": own["clusters"],
        "quality": own.get("quality"),
        "nmi": found.get("agreement_with_previous", {}).get("nmi"),
    }


def last_line(log: Path) -> dict[str, Any]:
    """The last line of a log.jsonl; empty without a log."""
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    return json.loads(lines[-1]) if lines else {}


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in aligned columns, shares in percent."""
    cells = [["system", "halves found %", "held out %", "clusters", "quality", "NMI with those before"]]
    for row in rows:
        percent = [f"{100 * row[name]:.1f}" if row[name] is not None else "-" for name in SHARES[:2]]
        plain = [f"{row[name]:.3f}" if row[name] is not None else "-" for name in SHARES[2:]]
        clusters = f"{row['clusters']:,}" if row["clusters"] is not None else "-"
        cells.append([row["system"], *percent, clusters, *plain])
    return aligned(cells)


if __name__ == "__main__":
    run(main, Options)
