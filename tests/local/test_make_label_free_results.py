"""results.json and the table of a run without test trials."""

import json

import numpy as np
import pytest
import torch

from cslib.config import UserError
from cslib.data.embeddings import EmbeddingWriter
from cslib.files import write_json, write_lines
from local.make_label_free_results import Options, main

IDS = [f"r{n}-{half}" for n in range(10) for half in (1, 2)]


def system(folder, spread, clusters=None, nmi=None, network=True):
    """The folder of a system. `clusters` are those that it was trained on."""
    rng = np.random.default_rng(1)
    vectors = np.repeat(rng.standard_normal((10, 8)), 2, axis=0) + spread * rng.standard_normal((20, 8))
    with EmbeddingWriter(folder / "embeddings/train_halves") as writer:
        writer.add(IDS, torch.from_numpy(vectors).float())
    if network:
        write_lines(folder / "checkpoints/final.pt", [])
    if clusters:
        found = {"clusters": clusters, "quality": clusters / 100}
        write_json(folder / "clusters.json", found | ({"agreement_with_previous": {"nmi": nmi}} if nmi else {}))
    return folder


@pytest.fixture
def options(tmp_path):
    systems = {
        "floor": system(tmp_path / "floor", 3.0, network=False),
        "dino": system(tmp_path, 0.01),
        "round1": system(tmp_path / "round1", 0.01, clusters=7),
        "final": system(tmp_path / "final", 0.01, clusters=6, nmi=0.8),
    }
    write_lines(tmp_path / "log.jsonl", ['{"step": 1, "retrieval": 0.1}', '{"step": 2, "retrieval": 0.75}'])
    return Options(tmp_path, "voxceleb", "folder", "dino", 3, ",".join(f"{n}={f}" for n, f in systems.items()))


def test_results_have_the_promised_keys_and_no_rows(options):
    main(options)
    results = json.loads((options.exp / "results.json").read_text())
    keys = ["recipe", "corpus", "method", "seed", "commit", "commits", "seconds", "rows", "label_free"]
    assert list(results) == keys and results["rows"] == [] and results["seed"] == 3
    floor, dino, round1, final = results["label_free"]
    assert dino == {
        "system": "dino",
        "network": str(options.exp / "checkpoints/final.pt"),
        "halves": 1.0,
        "retrieval": 0.75,
        "clusters": 7,  # the clusters that round1 learns are made from dino
        "quality": 0.07,
        "nmi": None,
    }
    assert (round1["clusters"], round1["nmi"], round1["retrieval"]) == (6, 0.8, None)
    assert final["clusters"] is None and floor["network"] is None and floor["halves"] < 0.7


def test_table_has_a_line_for_each_system(options, capsys):
    main(options)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["system", "floor", "dino", "round1", "final"]
    assert lines[2].split() == ["dino", "100.0", "75.0", "7", "0.070", "-"]


def test_a_system_without_a_folder_is_refused(options):
    options.systems += ",round9=/none"
    with pytest.raises(UserError, match="--systems is .*; it must be NAME=FOLDER"):
        main(options)


def test_of_compared_systems_each_has_its_own_clusters(options):
    rows = [{"system": name, "clusters": k, "quality": k / 10} for name, k in (("round1", 5), ("floor", 9))]
    write_json(options.exp / "final/clusters.json", {"clusters": 9, "quality": 0.9, "systems": rows})
    main(options)
    round1 = json.loads((options.exp / "results.json").read_text())["label_free"][2]
    assert (round1["clusters"], round1["quality"]) == (5, 0.5)
