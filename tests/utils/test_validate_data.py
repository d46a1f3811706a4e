"""A valid set passes with its counts; each kind of damage is named with its first offenders."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from cslib.config import UserError
from cslib.data.manifests import Entry, write_set
from cslib.data.trials import write_trials
from utils.validate_data import Options, main

ROOT = Path(__file__).parents[2]
RATE = 16_000


@pytest.fixture
def data(tmp_path):
    entries = []
    for n in range(6):
        path = tmp_path / f"u{n}.flac"
        soundfile.write(path, np.zeros(RATE + n), RATE)
        entries.append(Entry(f"u{n}", path, RATE + n, speaker=f"s{n // 2}"))
    write_set(tmp_path / "set", entries)
    write_trials(tmp_path / "set/trials/clean.txt", ["u0", "u0"], ["u1", "u2"], [True, False])
    return tmp_path / "set"


def edit(path, change):
    """Pass the items of a manifest, a list of dictionaries, through `change`."""
    items = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(item) + "\n" for item in change(items) or items)


def errors(data, **options):
    with pytest.raises(UserError) as caught:
        main(Options(data, **options))
    return str(caught.value)


def test_valid_set_passes_with_its_counts(data, capsys):
    main(Options(data, full=True))
    assert capsys.readouterr().out.endswith("valid, 6 utterances of 3 speakers, 0.00 h, 2 trials, 6 headers read\n")


def test_order_uniqueness_and_agreement_of_the_lists(data):
    for name in ("recordings", "supervisions", "cuts"):
        edit(data / f"{name}.jsonl.gz", lambda items: [items[1], items[0], *items[2:]])
    assert "ids repeated or not sorted: 1, the first: u0 after u1" in errors(data)
    edit(data / "cuts.jsonl.gz", lambda items: items[:4])
    assert "lists of different lengths: 1, the first: line 5" in errors(data)
    edit(data / "cuts.jsonl.gz", lambda items: [items[1], items[0], *items[2:]])
    assert "ids that differ between the lists: 2" in errors(data)


@pytest.mark.parametrize(
    "leak",
    [
        ("supervisions", lambda items: items[3].update(speaker="s1")),
        ("cuts", lambda items: items[3]["supervisions"][0].update(speaker="s1")),
        ("cuts", lambda items: items[3].update(custom={"speaker": "s1"})),
    ],
)
def test_speaker_anywhere_in_the_lists_is_found(data, leak):
    edit(data / f"{leak[0]}.jsonl.gz", leak[1])
    assert "a speaker outside speakers.tsv: 1, the first: u3" in errors(data)


def test_speakers_and_trials_must_fit_the_set(data):
    path = data / "speakers.tsv"
    path.write_text(path.read_text().replace("u2\ts1\n", "").replace("u1\ts0", "u1\ts7"))
    write_trials(data / "trials/other.txt", ["u0"], ["u9"], [False])
    text = errors(data)
    assert "speakers.tsv and cuts differ: 4, the first: line 4, u2" in text
    assert "trials of clean.txt that contradict speakers.tsv: 1, the first: u0 u1" in text
    assert "utterances of other.txt that are not in the set: 1, the first: u9" in text


def test_audio_must_be_there_with_the_listed_rate_and_length(data):
    (data.parent / "u0.flac").unlink()
    soundfile.write(data.parent / "u1.flac", np.zeros(RATE), RATE)
    soundfile.write(data.parent / "u2.flac", np.zeros(RATE + 2), 8000)
    (data.parent / "u3.flac").write_bytes(b"not audio")
    text = errors(data, full=True)
    for number, complaint in enumerate(
        ("not there", "of another length than listed", "not 16 kHz mono", "cannot be read")
    ):
        assert f"{complaint}: 1, the first: {data.parent}/u{number}.flac" in text


def test_only_the_first_few_offenders_are_shown(data):
    for n in range(6):
        (data.parent / f"u{n}.flac").unlink()
    text = errors(data)
    assert "audio files that are not there: 6" in text and "u4.flac" in text and "u5.flac" not in text


def test_durations_must_agree(data):
    edit(data / "cuts.jsonl.gz", lambda items: items[0].update(duration=0.5))
    assert "durations that disagree with the number of samples: 1, the first: u0" in errors(data)


def test_command_takes_the_folder_by_position_and_ends_with_status_1(data):
    def command():
        words = [sys.executable, "utils/validate_data.py", data, "--full"]
        return subprocess.run(
            words, cwd=ROOT, text=True, capture_output=True, check=False, env={"PYTHONPATH": str(ROOT)}
        )

    assert command().returncode == 0
    (data.parent / "u0.flac").unlink()
    failed = command()
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1].startswith("error: audio files that are not there: 1")


def test_items_without_a_length_or_an_audio_file_are_named(data):
    edit(data / "recordings.jsonl.gz", lambda items: items[0].pop("num_samples") and items[1].update(sources=[]))
    text = errors(data)
    assert "items that lack a field: 1, the first: u0" in text
    assert "recordings without an audio file or a length: 2, the first: u0; u1" in text


def test_a_cut_must_lie_inside_its_recording(data):
    def move(items):
        items[0].update(start=0.25)

    edit(data / "cuts.jsonl.gz", move)
    edit(data / "supervisions.jsonl.gz", move)
    assert errors(data).count("cuts that reach beyond their recording: 1, the first: u0") == 1


def test_a_supervision_must_span_its_cut(data):
    edit(data / "supervisions.jsonl.gz", lambda items: items[0].update(start=0.25))
    assert "supervisions that do not span their cut: 1, the first: u0" in errors(data)
