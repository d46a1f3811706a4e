"""Preparation, training, extraction and clustering never read true speakers."""

import gzip
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.tiny_run import ENVIRONMENT, ROOT, make_set, same_training, train, words

pytestmark = pytest.mark.slow  # starts processes that import torch

# Every Python with this file on its PYTHONPATH runs it before any other code. Loader processes inherit the hook or run
# it themselves. os._exit, because an exception might be caught.
WATCH = """
import os, sys

def watch(event, arguments):
    if event == "open" and str(arguments[0]).rstrip("'").endswith(("speakers.tsv", "emotions.tsv")):
        os.write(2, b"OPENED speakers.tsv\\\\n")
        os._exit(99)

sys.addaudithook(watch)
"""


@pytest.fixture
def watched(tmp_path):
    """Run Python files one after another, each with its command line; opening speakers.tsv ends them."""
    folder = tmp_path / "watch"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(WATCH)
    environment = {**ENVIRONMENT, "PYTHONPATH": f"{folder}:{ROOT}"}

    def call(*commands):
        code = (
            f"import runpy, sys\nfor sys.argv in {commands!r}:\n    runpy.run_path(sys.argv[0], run_name='__main__')\n"
        )
        (tmp_path / "commands.py").write_text(code)
        return subprocess.run(
            [sys.executable, str(tmp_path / "commands.py")], cwd=ROOT, env=environment, text=True, capture_output=True
        )

    return call


@pytest.fixture
def data(tmp_path):
    data = make_set(tmp_path / "data/train", count=12, seconds=1.2)
    assert (data / "speakers.tsv").exists()
    (data / "emotions.tsv").write_text("utterance\tclass\tspeaker\tfold\n")
    return data


def test_training_extraction_clustering_and_calibration_never_open_speakers_tsv(data, watched, tmp_path):
    run, steps = tmp_path / "run", ["--training.steps", "3"]
    out = run / "embeddings/train"
    extract = [
        "local/extract_embeddings.py",
        "--checkpoint",
        str(run / "checkpoints/final.pt"),
        "--cuts",
        str(data),
        "--out",
        str(out),
        "--device",
        "cpu",
        "--workers",
        "1",
    ]
    cluster = ["local/cluster_embeddings.py", "--embeddings", f"{out}.scp", "--out", str(run / "round1/labels.tsv")]
    calibrate = [
        "local/calibrate.py",
        "--checkpoint",
        str(run / "checkpoints/final.pt"),
        "--embeddings",
        f"{out}.scp",
        "--labels",
        str(run / "round1/labels.tsv"),
        "--data",
        str(data),
    ]
    done = watched(words(data, run, *steps, "--training.workers", "1"), extract, cluster, calibrate)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len((run / "round1/labels.tsv").read_text().splitlines()) == 13
    assert (run / "calibration.json").exists()

    # Without the file the same model comes out, bit for bit.
    (data / "speakers.tsv").unlink()
    assert same_training(train(data, tmp_path / "other", *steps), run)


def test_dino_rounds_final_network_and_floor_never_open_speakers_tsv(data, watched, tmp_path):
    run, conf = tmp_path / "run", ROOT / "tests/recipes/conf"

    def training(config, exp, *more):
        return [
            "local/train.py",
            "--config",
            str(conf / f"{config}.yaml"),
            "--data",
            str(data),
            "--exp",
            str(exp),
            "--device",
            "cpu",
            "--training.workers",
            "1",
            *map(str, more),
        ]

    def final(exp):
        return exp / "checkpoints/final.pt"

    labels = run / "round1/labels.tsv"
    done = watched(
        training("dino", run),
        [
            "local/extract_embeddings.py",
            "--checkpoint",
            str(final(run)),
            "--cuts",
            str(data),
            "--out",
            str(run / "embeddings/train"),
            "--device",
            "cpu",
            "--workers",
            "0",
        ],
        [
            "local/extract_floor.py",
            "--train",
            str(data),
            "--cuts",
            str(data),
            "--out",
            str(run / "floor/train"),
            "--device",
            "cpu",
        ],
        [
            "local/cluster_embeddings.py",
            "--embeddings",
            str(run / "embeddings/train.scp"),
            "--out",
            str(labels),
            "--clusters",
            "3",
        ],
        training("round", run / "round1", "--labels", labels, "--start-from", final(run)),
        training("round_dino", run / "round2", "--labels", labels, "--start-from", final(run)),
        training("final", run / "final/plain", "--labels", labels),
        training("large_margin", run / "final", "--labels", labels, "--start-from", final(run / "final/plain")),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert final(run / "round2").exists() and final(run / "final").exists() and (run / "floor/train.scp").exists()


@pytest.mark.parametrize(
    "how",
    [
        "open(sys.argv[1])",
        "pathlib.Path(sys.argv[1]).read_text()",
        "os.open(sys.argv[1], os.O_RDONLY)",
        "numpy.loadtxt(sys.argv[1], str)",
    ],
)
def test_a_script_that_opens_speakers_tsv_is_caught(data, watched, tmp_path, how):
    script = tmp_path / "peek.py"
    script.write_text(f"import os, pathlib, sys, numpy\n{how}\n")
    done = watched([str(script), str(data / "speakers.tsv")])
    assert done.returncode == 99 and "OPENED speakers.tsv" in done.stderr


def test_a_loader_process_that_opens_speakers_tsv_is_caught(data, watched, tmp_path):
    script = tmp_path / "peek.py"
    script.write_text("""
import sys
from torch.utils.data import DataLoader, Dataset

class Peek(Dataset):
    def __len__(self):
        return 1
    def __getitem__(self, index):
        return len(open(sys.argv[1]).read())

if __name__ == "__main__":
    list(DataLoader(Peek(), num_workers=1))
""")
    done = watched([str(script), str(data / "speakers.tsv")])
    assert done.returncode != 0 and "OPENED speakers.tsv" in done.stderr


def tones(path, seconds=1.5):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, int(seconds * 16000)).clip(-1, 1), 16000)


def prepare_folder(data, corpus):
    from local.prepare_folder import Options, main

    for speaker in ("alice", "bobby"):
        for n in range(2):
            tones(corpus / f"test/{speaker}/{n}.wav")
            tones(corpus / f"train/{n}-{len(speaker)}.wav")
    main(Options(train_dir=corpus / "train", test_dir=corpus / "test", data=data, nj=1))


def prepare_voxceleb(data, corpus):
    from local.prepare_voxceleb import Options, main

    for part, speakers in (
        ("vox1/dev/wav", ("id10001",)),
        ("vox1/test/wav", ("id10270",)),
        ("vox2/dev/wav", ("id00012", "id00015")),
    ):
        for speaker in speakers:
            for video in ("aaaaaaaaaaa", "bbbbbbbbbbb"):
                tones(corpus / part / speaker / video / "00001.wav", 4.5)
    one, other = "id10270/aaaaaaaaaaa/00001.wav", "id10001/bbbbbbbbbbb/00001.wav"
    for name in ("veri_test.txt", "veri_test2.txt", "list_test_all2.txt", "list_test_hard2.txt"):
        (corpus / "vox1" / name).write_text(f"1 {one} {one}\n0 {one} {other}\n")
    main(Options(vox1=corpus / "vox1", vox2=corpus / "vox2", data=data, nj=1))


def prepare_mini(data, corpus):
    from local.prepare_mini import Options, main

    main(
        Options(
            out=data,
            nj=1,
            train_speakers=2,
            train_sessions=1,
            train_utterances=1,
            test_speakers=2,
            test_sessions=2,
            test_utterances=1,
            nontargets_per_target=1,
        )
    )


def prepare_pairs(data, corpus):
    from local.prepare_pairs import Options, main

    for side in ("clean", "noisy"):
        for name in ("alice-1", "alice-2", "bobby-1"):
            tones(corpus / side / f"{name}.wav")
        tones(corpus / "test" / side / "carol-1.wav")
    main(
        Options(
            clean_dir=corpus / "clean",
            noisy_dir=corpus / "noisy",
            test_clean_dir=corpus / "test/clean",
            test_noisy_dir=corpus / "test/noisy",
            data=data,
            nj=1,
        )
    )
    return False  # it knows no speakers


def prepare_voicebank(data, corpus):
    from local.prepare_voicebank import Options, main

    for name, speakers in (("trainset_28spk", ("p226", "p227")), ("testset", ("p232",))):
        for side in ("clean", "noisy"):
            for speaker in speakers:
                tones(corpus / f"{side}_{name}_wav/{speaker}_001.wav")
    main(Options(corpus=corpus, data=data, nj=1))


def prepare_mini_pairs(data, corpus):
    from cslib.data.banks import BankWriter
    from local.prepare_mini_pairs import Options, main

    for seed, folder in enumerate(("noise", "noise_test")):
        with BankWriter(corpus / folder / "noise", np.int16) as writer:
            writer.add(np.random.default_rng(seed).integers(-9000, 9000, 20_000).astype(np.int16))
    main(
        Options(
            noise=corpus / "noise",
            noise_test=corpus / "noise_test",
            out=data,
            nj=1,
            train_speakers=2,
            train_utterances=1,
            valid_speakers=1,
            valid_utterances=1,
            test_speakers=1,
            test_utterances=1,
        )
    )


def prepare_iemocap(data, corpus):
    from local.prepare_iemocap import Options, main
    from tests.local.test_prepare_emotion import make_iemocap

    main(Options(make_iemocap(corpus), data, nj=1))


def prepare_cremad(data, corpus):
    from local.prepare_cremad import Options, main

    for actor in (1001, 1002):
        for code in ("ANG", "SAD"):
            tones(corpus / f"AudioWAV/{actor}_DFA_{code}_XX.wav")
    main(Options(corpus, data, folds=2, nj=1))


def prepare_msp_podcast(data, corpus):
    from local.prepare_msp_podcast import Options, main
    from tests.local.test_prepare_emotion import make_msp

    main(Options(make_msp(corpus), data, nj=1))


def prepare_emotion_folder(data, corpus):
    from local.prepare_emotion_folder import Options, main

    for name in ("glad", "cross"):
        for speaker in ("alice", "bobby"):
            tones(corpus / name / speaker / "0.wav")
    main(Options(corpus, data=data, nj=1))


def prepare_mini_emotion(data, corpus):
    from local.prepare_mini_emotion import Options, main

    main(Options(data, nj=1, speakers=2, sessions=1, folds=2))


WITH_CLASSES = [prepare_iemocap, prepare_cremad, prepare_msp_podcast, prepare_emotion_folder, prepare_mini_emotion]
PREPARATIONS = [
    prepare_folder,
    prepare_voxceleb,
    prepare_mini,
    prepare_pairs,
    prepare_voicebank,
    prepare_mini_pairs,
    *WITH_CLASSES,
]


@pytest.mark.parametrize("prepare", PREPARATIONS)
def test_manifests_of_every_prepare_script_name_no_speaker(tmp_path, prepare):
    from lhotse import CutSet

    knows_speakers = prepare(tmp_path / "data", tmp_path / "corpus") is None
    with_speakers = 0
    folders = {path.parent for path in (tmp_path / "data").rglob("cuts.jsonl.gz")}
    assert {folder.relative_to(tmp_path / "data").parts[0] for folder in folders} >= (
        {"all"} if prepare in WITH_CLASSES else {"train", "test"}
    )
    for folder in folders:
        assert all(
            s.speaker is None and not s.custom
            for cut in CutSet.from_file(folder / "cuts.jsonl.gz")
            for s in cut.supervisions
        )
        for name in ("recordings", "supervisions", "cuts"):
            text = gzip.decompress((folder / f"{name}.jsonl.gz").read_bytes()).decode()
            assert text and not re.search(r'"(speaker|gender|sex|session|label|class|fold)"', text)
        with_speakers += (folder / "speakers.tsv").exists()
    assert bool(with_speakers) == knows_speakers  # there was something to leak


def test_every_prepare_script_of_a_corpus_is_covered_here():
    scripts = {path.stem for path in Path(ROOT, "local").glob("prepare_*.py")}
    assert scripts - {"prepare_noise"} == {prepare.__name__ for prepare in PREPARATIONS}
