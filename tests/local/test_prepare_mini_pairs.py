"""Pairs of the mini corpus: its speakers, dry and clean, and always the same bytes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cslib.config import UserError
from cslib.data.banks import BankWriter
from cslib.data.pairs import PairedUtterances, read_conditions
from cslib.data.utterances import Utterances
from local import prepare_mini, prepare_mini_pairs
from local.prepare_mini_pairs import Options, Speaker, main

TINY = Options(train_speakers=2, train_utterances=2, valid_speakers=1, valid_utterances=1, test_speakers=1,
               test_utterances=2)  # fmt: skip


@pytest.fixture(scope="module")
def options(tmp_path_factory) -> Options:
    root = tmp_path_factory.mktemp("mini")
    for number, folder in enumerate(("noise", "noise_test")):
        with BankWriter(root / folder / "noise", np.int16) as writer:
            writer.add(np.random.default_rng(number).integers(-9000, 9000, 20_000).astype(np.int16))
    options = replace(TINY, noise=root / "noise", noise_test=root / "noise_test", out=root / "pairs")
    main(options)
    return options


def speakers_of(folder: Path) -> set[str]:
    return {line.split("\t")[1] for line in (folder / "speech/speakers.tsv").read_text().splitlines()[1:]}


def test_speakers_of_the_three_sets_are_those_of_the_mini_corpus_and_none_is_in_two(options):
    assert speakers_of(options.out / "train") == {"train-speaker-000", "train-speaker-001"}
    assert speakers_of(options.out / "valid") == {"train-speaker-002"}
    assert speakers_of(options.out / "test") == {"test-speaker-000"}


def test_training_utterances_may_stay_clean_and_be_mixed_later(options, tmp_path):
    main(replace(options, out=tmp_path / "pairs", mix_train=False))
    assert not (tmp_path / "pairs/train/noisy").exists() and speakers_of(tmp_path / "pairs/train") == speakers_of(
        options.out / "train"
    )
    assert PairedUtterances.open(tmp_path / "pairs/valid").ids() == PairedUtterances.open(options.out / "valid").ids()
    main(replace(options, out=tmp_path / "pairs"))
    assert (
        PairedUtterances.open(tmp_path / "pairs/train").digest()
        == PairedUtterances.open(options.out / "train").digest()
    )


def test_they_have_the_voices_that_they_have_in_the_mini_corpus(tmp_path, monkeypatch):
    voices = []

    class Listener:
        sample_rate = 16_000

        def __init__(self, given, folder):
            voices.append(given["speaker"])

        def say(self, *_, **__):
            return np.ones(4 * 16_000, np.int16)

    for module, make in ((prepare_mini, prepare_mini.make_speaker), (prepare_mini_pairs, prepare_mini_pairs.speak_dry)):
        monkeypatch.setattr(module, "Synthesiser", Listener)
        make(Speaker("test-speaker-003", "m", (0, 1, 3), tmp_path, [["u"]]))
    assert voices[0] == voices[1]


def test_counts_ratios_and_levels(options):
    low, high = {0, 5, 10, 15}, {2.5, 7.5, 12.5, 17.5}
    for name, count, grid in (("train", 4, low), ("valid", 1, low), ("test", 2, high)):
        utterances, conditions = PairedUtterances.open(options.out / name), read_conditions(options.out / name)
        assert utterances.ids() == [f"{name}-{n:06d}" for n in range(count)] == list(conditions)
        for row, (snr, _) in enumerate(conditions.values()):
            noisy, clean = utterances.read(row).astype(float)
            assert snr in grid
            assert 10 * np.log10(np.sum(clean**2) / np.sum((noisy - clean) ** 2)) == pytest.approx(snr, abs=0.1)
            assert 3 <= len(clean) / 16_000 <= 6
            assert -33 < 20 * np.log10(np.sqrt(np.mean(clean**2)) / 32768) < -19


def test_noises_of_the_test_are_those_held_out_for_it(options):
    def likeness(noise, bank):
        """Largest cosine of the noise with a piece of the bank's recording of that length."""
        recording = np.random.default_rng(bank).integers(-9000, 9000, 20_000).astype(float)
        recording = np.tile(recording, len(noise) // len(recording) + 2)
        size = 1 << (len(recording) + len(noise)).bit_length()
        products = np.fft.irfft(np.fft.rfft(recording, size) * np.fft.rfft(noise, size).conj(), size)
        return products.max() / np.linalg.norm(noise) / np.linalg.norm(recording[: len(noise)])

    for name, bank in (("train", 0), ("valid", 0), ("test", 1)):
        noisy, clean = PairedUtterances.open(options.out / name).read(0).astype(float)
        assert likeness(noisy - clean, bank) > 0.6 > 0.1 > likeness(noisy - clean, 1 - bank)


def test_there_is_silence_in_the_speech_and_none_in_the_clean_side(options):
    def silent_blocks(samples):
        return (samples[: len(samples) // 160 * 160].reshape(-1, 160) == 0).all(axis=1).sum()

    dry, pairs = Utterances.open(options.out / "train/speech"), PairedUtterances.open(options.out / "train")
    assert sum(silent_blocks(dry.read(row)) for row in range(4)) > 0
    assert sum(silent_blocks(pairs.read(row)[1]) for row in range(4)) == 0


def test_the_same_seed_gives_the_same_bytes_and_a_second_run_does_nothing(options, tmp_path, capsys):
    main(replace(options, out=tmp_path, nj=1))
    paths = [path.relative_to(tmp_path) for path in tmp_path.rglob("*.flac")]
    assert len(paths) == 3 * 7
    assert all((tmp_path / path).read_bytes() == (options.out / path).read_bytes() for path in paths)
    capsys.readouterr()
    main(options)
    assert capsys.readouterr().out.count("made before, nothing to do") == 3
    with pytest.raises(UserError, match="was made with another train-speakers"):
        main(replace(options, train_speakers=3))


def test_one_noise_for_both_and_empty_sets_are_refused(options, tmp_path):
    with pytest.raises(UserError, match="is the training noise, too"):
        main(replace(options, noise_test=options.noise, out=tmp_path / "a"))
    with pytest.raises(UserError, match="--valid-speakers is 0; it must be at least 1"):
        main(replace(options, valid_speakers=0, out=tmp_path / "a"))
    assert not (tmp_path / "a").exists()
