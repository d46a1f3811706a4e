"""Pack a set into shards: a few large tar files instead of a million small files, in lhotse's Shar format.

    python local/pack_shards.py --data data/voxceleb/train
    python local/pack_shards.py --data data/voxceleb/train --part 3/40     # the third of forty machines

Makes data/<set>/shards/recording.000000.tar with cuts.000000.jsonl.gz beside it, and so on. flac files are packed
unchanged, wav files and parts of files as lossless FLAC. The folder is called shards.partial until the last shard of
the last part is there, so shards/ is always complete. A killed run continues where it was.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import soundfile

from cslib.config import Part, UserError, run
from cslib.data.manifests import SAMPLE_RATE, read_manifest, write_manifest
from cslib.files import progress, read_json, write_json, writing
from cslib.parallel import in_order

Item = dict[str, Any]


@dataclass
class Options:
    data: Path  # data/<set>
    shard_size: int = 1000  # utterances per shard
    part: Part = Part("1/1")  # "3/40": the third of forty equal shares of the shards
    nj: int = os.cpu_count() or 1  # number of processes


def main(options: Options) -> None:
    if options.shard_size < 1:
        raise UserError(f"--shard-size is {options.shard_size}; it must be at least 1")
    plan = make_plan(options.data / "cuts.jsonl.gz", options.shard_size)
    whole, folder = options.data / "shards", options.data / "shards.partial"
    if _planned(options.data, plan) and whole.exists():
        print(f"{whole}: complete already ({plan['shards']:,} shards), nothing to do")
        return
    write_json(options.data / "shards.json", plan)
    share = range(plan["shards"])[options.part.slice(plan["shards"])]
    tasks = shards_of(options.data / "cuts.jsonl.gz", options.shard_size, share)
    done = in_order(partial(pack_shard, folder=folder), tasks, options.nj, chunk=1)
    packed = sum(progress(done, f"packing part {options.part}", total=len(share)))
    print(f"{options.data}: part {options.part}, {len(share):,} shards, {packed:,} of them packed now")
    print(finish(folder, whole, plan["shards"]))


def make_plan(cuts: Path, shard_size: int) -> dict[str, Any]:
    """What is packed, and how: it must be the same for every part."""
    utterances = sum(1 for _ in read_manifest(cuts))
    digest = hashlib.sha256(cuts.read_bytes()).hexdigest()
    return {
        "utterances": utterances,
        "shard_size": shard_size,
        "shards": -(-utterances // shard_size),
        "cuts_sha256": digest,
    }


def _planned(data: Path, plan: dict[str, Any]) -> bool:
    """Whether packing to this plan has begun. Raises UserError when shards of another plan are there."""
    begun = [folder for folder in (data / "shards", data / "shards.partial") if folder.exists()]
    if not begun:
        return False
    if not (data / "shards.json").exists() or read_json(data / "shards.json") != plan:
        raise UserError(f"{begun[0]}: packed from other lists or with another --shard-size; delete it to pack again")
    return True


def shards_of(cuts: Path, shard_size: int, share: range) -> Iterator[tuple[int, list[Item]]]:
    """Yield (number, cuts) of the shards in `share`."""
    items = read_manifest(cuts)
    for number in range(share.stop):
        shard = list(islice(items, shard_size))
        if number in share:
            yield number, shard


def pack_shard(task: tuple[int, list[Item]], folder: Path) -> bool:
    """Write one shard unless it exists; return whether it was written. Raises UserError for missing audio."""
    number, cuts = task
    lists = folder / f"cuts.{number:06d}.jsonl.gz"
    if lists.exists():  # written last
        return False
    with writing(folder / f"recording.{number:06d}.tar") as temporary, tarfile.open(temporary, "w") as tar:
        for cut in cuts:
            _add(tar, f"{cut['id']}.flac", _flac_bytes(cut))
            _add(tar, f"{cut['id']}.json", json.dumps(_in_shard(cut)["recording"]).encode() + b"\n")
    write_manifest(lists, map(_in_shard, cuts))
    return True


def finish(folder: Path, whole: Path, shards: int) -> str:
    """Rename the folder when all shards of all parts are in it; return a sentence about it."""
    missing = sum(not (folder / f"cuts.{number:06d}.jsonl.gz").exists() for number in range(shards))
    if missing and not whole.exists():
        return f"{folder}: {missing:,} of {shards:,} shards are still missing; run the other parts"
    for leftover in folder.glob(".writing-*"):  # of killed runs; lhotse would take them for fields
        leftover.unlink(missing_ok=True)
    with suppress(FileNotFoundError):  # another part ended at the same time
        folder.rename(whole)
    return f"{whole}: complete, {shards:,} shards"


def _in_shard(cut: Item) -> Item:
    """The cut over a recording in the shard, which has nothing before or after the utterance."""
    recording = {
        **cut["recording"],
        "sources": [{"type": "shar", "channels": [0], "source": ""}],
        "num_samples": round(cut["duration"] * SAMPLE_RATE),
        "duration": cut["duration"],
    }
    return {**cut, "start": 0.0, "recording": recording}


def _flac_bytes(cut: Item) -> bytes:
    path = cut["recording"]["sources"][0]["source"]
    try:
        if path.lower().endswith(".flac") and cut["duration"] == cut["recording"]["duration"]:
            return Path(path).read_bytes()
        start, frames = (round(cut[name] * SAMPLE_RATE) for name in ("start", "duration"))
        samples, _ = soundfile.read(path, frames, start, dtype="int16")
    except (OSError, soundfile.LibsndfileError) as error:
        raise UserError(f"{path}: cannot be read ({error}); prepare the data again") from None
    packed = io.BytesIO()
    soundfile.write(packed, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return packed.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


if __name__ == "__main__":
    run(main, Options)
