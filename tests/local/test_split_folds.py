"""Labels for fine-tuning hold nothing of the held-out fold."""

import numpy as np
import pytest
import torch
import yaml

from cslib.config import UserError
from cslib.data.classes import ClassTable, Labelled
from cslib.data.labels import read_table
from cslib.models import galr, resnet
from local.split_folds import Options, main

NETWORK = {"num_mels": 20, "channels": [4, 4, 8, 8], "blocks": [1, 1, 1, 1], "stem_stride": 4, "embedding_size": 16}


def final(path, name, module, **network):
    torch.save(
        {
            "config": {"network": {"name": name, **network}},
            "encoder": module.build(module.Config(**network)).state_dict(),
        },
        path,
    )
    return path


@pytest.fixture
def table(tmp_path):
    rows = [Labelled(f"u{n:02d}", "ab"[n % 2], f"s{n // 4}", f"fold{n // 8 + 1}") for n in range(24)]
    ClassTable.of(rows).write(tmp_path / "emotions.tsv")
    return tmp_path / "emotions.tsv"


def test_labels_of_a_fold_are_those_of_the_other_speakers(table, tmp_path):
    main(Options(table, final(tmp_path / "final.pt", "resnet", resnet, **NETWORK), tmp_path / "out"))
    assert yaml.safe_load((tmp_path / "out/network.yaml").read_text()) == {"network": {"name": "resnet", **NETWORK}}
    whole = ClassTable.read(table)
    for fold in ("fold1", "fold2", "fold3"):
        labels = read_table(tmp_path / "out" / fold / "labels.tsv")
        kept = whole.folds != fold
        assert list(labels) == whole.utterances[kept].tolist()
        assert list(labels.values()) == [str("ab".index(name)) for name in whole.labels[kept]]
        held_out = set(whole.speakers[~kept])
        assert not held_out & set(whole.speakers[np.isin(whole.utterances, list(labels))])


def test_development_part_is_left_out_of_the_labels(tmp_path):
    rows = [
        Labelled(f"u{n:02d}", "ab"[n % 2], f"s{n // 2}", ("train", "development", "test1")[n // 2 % 3])
        for n in range(24)
    ]
    ClassTable.of(rows).write(tmp_path / "emotions.tsv")
    main(
        Options(tmp_path / "emotions.tsv", final(tmp_path / "final.pt", "resnet", resnet, **NETWORK), tmp_path / "out")
    )
    assert [path.parent.name for path in (tmp_path / "out").glob("*/labels.tsv")] == ["test1"]
    labels = read_table(tmp_path / "out/test1/labels.tsv")
    assert list(labels) == [row.utterance for row in rows if row.fold == "train"]


def test_a_separating_network_is_refused_before_anything_is_written(table, tmp_path):
    path = final(
        tmp_path / "final.pt",
        "galr",
        galr,
        window=400,
        filters=16,
        features=8,
        hidden=8,
        segment=8,
        heads=2,
        low_dim=4,
        shared_blocks=1,
        speech_blocks=1,
        speaker_blocks=1,
        embedding_size=8,
    )
    with pytest.raises(UserError, match="final.pt: this network names no embedding layers"):
        main(Options(table, path, tmp_path / "out"))
    assert not (tmp_path / "out").exists()
