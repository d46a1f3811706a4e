"""Shards hold the set, bit for bit, in a form that lhotse reads and that can be read at random."""

import tarfile

import numpy as np
import pytest
import soundfile

from cslib.config import Part, UserError
from cslib.data.manifests import Entry, write_set
from cslib.data.utterances import Utterances
from local.pack_shards import Options, main

RATE = 16_000


@pytest.fixture
def data(tmp_path):
    entries = []
    for n in range(11):
        path = tmp_path / f"audio/u{n:02d}.{'wav' if n % 2 else 'flac'}"
        path.parent.mkdir(exist_ok=True)
        samples = np.random.default_rng(n).integers(-30_000, 30_000, 3000 + n).astype(np.int16)
        soundfile.write(path, samples, RATE)
        name = f"u{n:02d}" + ("-" + "long" * 40 if n == 4 else ".v2" if n == 5 else "")
        entries.append(Entry(name, path, len(samples)))
    write_set(tmp_path / "set", entries)
    return tmp_path / "set"


def test_packed_set_reads_like_the_unpacked_one(data):
    loose = Utterances.open(data)
    main(Options(data, shard_size=4, nj=1))
    packed = Utterances.open(data)
    assert packed.ids() == loose.ids() and (packed.num_samples == loose.num_samples).all()
    for row in range(len(loose)):
        assert (packed.read(row) == loose.read(row)).all()
        assert (packed.read(row, 1000, 500) == loose.read(row)[1000:1500]).all()


def test_lhotse_reads_the_shards(data):
    from lhotse import CutSet

    main(Options(data, shard_size=4, nj=2))
    cuts = list(CutSet.from_shar(in_dir=data / "shards"))
    originals = list(CutSet.from_file(data / "cuts.jsonl.gz"))
    assert [cut.id for cut in cuts] == [cut.id for cut in originals]
    for cut, original in zip(cuts, originals, strict=True):
        assert (cut.load_audio() == original.load_audio()).all() and cut.duration == original.duration
        assert all(supervision.speaker is None for supervision in cut.supervisions)


def test_shards_are_plain_tars_with_a_flac_and_a_json_for_each_recording(data):
    main(Options(data, shard_size=4, nj=1))
    assert sorted(path.name for path in (data / "shards").iterdir()) == [
        *(f"cuts.{n:06d}.jsonl.gz" for n in range(3)),
        *(f"recording.{n:06d}.tar" for n in range(3)),
    ]
    with tarfile.open(data / "shards/recording.000002.tar", "r:") as tar:  # "r:" = not compressed
        members = tar.getmembers()
    names = [f"u{n:02d}.{kind}" for n in (8, 9, 10) for kind in ("flac", "json")]
    assert [member.name for member in members] == names
    content = (data / "shards/recording.000002.tar").read_bytes()
    assert content[members[0].offset_data :][:4] == b"fLaC"


def test_parts_together_make_what_one_run_makes_and_only_the_last_one_shows_it(data, capsys):
    for index in (2, 3):
        main(Options(data, shard_size=2, part=Part(f"{index}/3"), nj=1))
        assert not (data / "shards").exists()
    assert "2 of 6 shards are still missing" in capsys.readouterr().out
    main(Options(data, shard_size=2, part=Part("1/3"), nj=1))
    parts = {path.name: path.read_bytes() for path in (data / "shards").iterdir()}
    (data / "shards").rename(data / "parts")
    main(Options(data, shard_size=2, nj=1))
    assert parts == {path.name: path.read_bytes() for path in (data / "shards").iterdir()}


def test_killed_run_continues_and_a_finished_one_does_nothing(data, capsys):
    main(Options(data, shard_size=2, part=Part("1/2"), nj=1))
    (data / "shards.partial/.writing-1-recording.000004.tar").write_bytes(b"piece")
    (data / "shards.partial/recording.000005.tar").write_bytes(b"piece")  # its list was not yet written
    main(Options(data, shard_size=2, nj=1))
    assert "6 shards, 3 of them packed now" in capsys.readouterr().out
    assert len(list((data / "shards").iterdir())) == 12
    main(Options(data, shard_size=2, nj=1))
    assert "nothing to do" in capsys.readouterr().out


def test_shards_of_other_lists_are_not_mixed_with_new_ones(data):
    main(Options(data, shard_size=2, part=Part("1/2"), nj=1))
    with pytest.raises(UserError, match="delete it to pack again"):
        main(Options(data, shard_size=3, nj=1))
    main(Options(data, shard_size=2, nj=1))
    write_set(data, [Entry("a", "/gone.flac", 5)])
    with pytest.raises(UserError, match="delete it to pack again"):
        main(Options(data, shard_size=2, nj=1))


def test_missing_audio_and_a_missing_set_end_in_a_sentence(data):
    with pytest.raises(UserError, match="no such file"):
        main(Options(data / "none", nj=1))
    write_set(data, [Entry("a", "/gone.flac", 5)])
    with pytest.raises(UserError, match="/gone.flac: cannot be read"):
        main(Options(data, nj=1))
    assert not (data / "shards").exists()
