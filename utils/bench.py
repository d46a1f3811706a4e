"""Measure the speed and memory of parts of the library at full size, on synthetic data. Nothing passes or fails.

    python utils/bench.py score                                     # VoxCeleb1-E and a cohort of 20,000
    python utils/bench.py score --cohort 2000 --utterances 20000    # less AS-norm, for a quick look
    python utils/bench.py cluster                                   # VoxCeleb2, 50,000 centroids; takes hours
    python utils/bench.py cluster --utterances 20000 --size 64 --clusters 200 --centroids 2000 --iterations 5
    python utils/bench.py step egs/voxceleb/conf/csc.yaml data/mini/train --noise data/mini/noise
    python utils/bench.py step egs/voxceleb/conf/dino.yaml data/mini/train --noise data/mini/noise --steps 4 \\
        --options '["--training.batch_size=32", "--objective.prototypes=2"]'    # cost of the 65,536 prototypes
    python utils/bench.py loader egs/voxceleb/conf/csc.yaml data/mini/train --noise data/mini/noise

To add a benchmark, write a function and name it in the last line.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from jsonargparse import auto_cli
from torch.utils.data import DataLoader, Subset

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from cslib import clustering  # noqa: E402
from cslib.config import parse  # noqa: E402
from cslib.data.trials import Trials, read_trials, write_trials  # noqa: E402
from cslib.evaluation.bootstrap import REPLICATES, eer_interval  # noqa: E402
from cslib.evaluation.cosine import cosine_scores, unit_embeddings  # noqa: E402
from cslib.evaluation.error_rates import equal_error_rate, min_dcf  # noqa: E402
from cslib.evaluation.normalisation import as_norm, cohort_statistics  # noqa: E402
from cslib.evaluation.score_files import read_scores, write_scores  # noqa: E402
from cslib.training.build import build  # noqa: E402
from cslib.training.options import options_of_command  # noqa: E402


def score(
    trials: int = 579_818,
    utterances: int = 145_160,
    cohort: int = 20_000,
    size: int = 256,
    speakers: int = 1251,
    device: str = "cpu",
    seed: int = 0,
) -> None:
    """Time trial lists, cosine scores, AS-norm, error rates and their confidence interval.

    Args:
        trials: number of trials (default: VoxCeleb1-E cleaned)
        utterances: number of test utterances
        cohort: number of cohort utterances for AS-norm
        size: embedding size
        speakers: number of test speakers
        device: cpu or cuda
        seed: seed of the synthetic embeddings
    """
    rng = np.random.default_rng(seed)
    speaker = np.arange(utterances) % speakers
    voices = rng.standard_normal((speakers, size), dtype=np.float32)
    embeddings = voices[speaker] + 2 * rng.standard_normal((utterances, size), dtype=np.float32)
    imposters = rng.standard_normal((cohort, size), dtype=np.float32)
    listed = _synthetic_trials(rng, trials, utterances, speaker)
    enrol, test = listed.enrol_index, listed.test_index

    with tempfile.TemporaryDirectory() as folder:
        write_trials(Path(folder) / "trials", listed.enrol, listed.test, listed.targets)
        with measured(f"read {trials:,} trials"):
            listed = read_trials(Path(folder) / "trials")
        write_scores(Path(folder) / "scores", listed, np.zeros(trials))
        with measured("read their score file"):
            read_scores(Path(folder) / "scores", listed)
    with measured(f"cosine of {trials:,} trials over {utterances:,} x {size} embeddings"):
        unit = unit_embeddings(embeddings, device=device)
        scores = cosine_scores(unit, enrol, test)
    with measured("EER and minDCF"):
        rates = equal_error_rate(scores, listed.targets), min_dcf(scores, listed.targets)
    with measured(f"95 % interval, {REPLICATES} bootstrap samples of {speakers:,} speakers"):
        interval = eer_interval(scores, listed.targets, speaker[enrol], speaker[test])
    with measured(f"AS-norm, {utterances:,} utterances x cohort of {cohort:,}"):
        statistics = cohort_statistics(unit, unit_embeddings(imposters, device=device))
        as_norm(scores, enrol, test, statistics)
    print(f"EER {rates[0]:.2f} % [{interval[0]:.2f}, {interval[1]:.2f}], minDCF {rates[1]:.3f} (synthetic)")


def cluster(
    utterances: int = 1_092_009,
    size: int = 256,
    clusters: int = 7000,
    centroids: int = 50_000,
    iterations: int = 20,
    seed: int = 0,
    choose: bool = False,
) -> None:
    """Time pseudo-labels: k-means, agglomeration and one cut of the tree. The aim is to stay below 16 GB of memory.

    Args:
        utterances: number of utterances (default: VoxCeleb2 dev)
        size: embedding size
        clusters: number of true clusters, of unequal sizes, and of clusters that the tree is cut into
        centroids: number of k-means centroids
        iterations: number of k-means iterations; its time is proportional to them
        seed: seed of the synthetic embeddings and of the k-means
        choose: also choose the number of clusters by silhouette, as the recipes do, which takes some two dozen cuts
    """
    embeddings, speaker = _synthetic_clusters(np.random.default_rng(seed), utterances, size, clusters)
    config = clustering.ClusterConfig(clusters=clusters, centroids=centroids, iterations=iterations, seed=seed)
    with measured(f"{utterances:,} x {size} embeddings to length 1"):
        vectors = clustering.normalise(embeddings)
    with measured(f"k-means to {centroids:,} centroids, {iterations} iterations"):
        cells = clustering.spherical_kmeans(vectors, centroids, iterations, seed)
    with measured(f"agglomeration of {cells.max() + 1:,} cells"):
        sums, counts = clustering.group_sums(vectors, cells)
        tree = clustering.Tree(cells, len(counts), *clustering.average_linkage(sums, counts))
    with measured(f"cut into {clusters:,} clusters, {config.reassign} rounds of reassignment"):
        labels = clustering.partition(vectors, tree, clusters, config)
    if choose:
        with measured("choice of the number of clusters by silhouette"):
            chosen, table = clustering.choose_by_silhouette(vectors, tree, config)
        print(f"chosen of {len(table)} candidates: {chosen:,}")
    print(
        f"NMI {clustering.compare(labels, speaker)['nmi']:.3f} with the true clusters (synthetic); "
        f"memory of the whole process at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB"
    )


def step(recipe: Path, data: Path, noise: Path | None = None, steps: int = 80, options: tuple[str, ...] = ()) -> None:
    """Measure steps per second in a short run of local/train.py, and estimate the time of the whole training.

    Args:
        recipe: config of the training, for example egs/voxceleb/conf/csc.yaml
        data: prepared training set
        noise: prepared noise and RIRs
        steps: number of steps; the first half warms up and is not counted
        options: further options of local/train.py, as in --options '["--training.workers=8", "--device=cuda"]'
    """
    half = max(1, steps // 2)
    with tempfile.TemporaryDirectory() as folder:
        arguments = _training_arguments(recipe, data, noise, folder, options)
        schedule = [f"--training.steps={2 * half}", f"--training.log_every={half}"]
        run = subprocess.run(
            [sys.executable, "local/train.py", *arguments, *schedule],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        if run.returncode:
            sys.exit("no figures: the training failed")
        line = json.loads((Path(folder) / "log.jsonl").read_text().splitlines()[-1])
    seconds = line["data_seconds"] + line["compute_seconds"]
    whole = parse(options_of_command(arguments), _training_arguments(recipe, data, noise, "unused", ())).training
    hours = whole.steps * whole.batch_size / line["items_per_second"] / 3600
    print(
        f"{1 / seconds:.2f} steps/s, {line['items_per_second']:.1f} items/s, waiting for data "
        f"{100 * line['data_seconds'] / seconds:.1f} %, memory at most {line['memory_gb']:.2f} GB; "
        f"all {whole.steps:,} steps of {whole.batch_size} at this pace: {hours:,.1f} hours"
    )


def loader(
    recipe: Path,
    data: Path,
    noise: Path | None = None,
    batches: int = 20,
    workers: int = 1,
    options: tuple[str, ...] = (),
) -> None:
    """Measure how many items per second the loader processes of a training deliver while nothing else computes.

    Args:
        recipe: config of the training
        data: prepared training set
        noise: prepared noise and RIRs
        batches: number of batches to read, after one per worker that is not counted
        workers: number of loader processes
        options: further options of local/train.py
    """
    arguments = _training_arguments(recipe, data, noise, "unused", options)
    parsed = parse(options_of_command(arguments), arguments)
    dataset, size = build(parsed)[0].dataset, parsed.training.batch_size
    items = DataLoader(Subset(dataset, range((batches + workers) * size)), batch_size=size, num_workers=workers)
    for number, _ in enumerate(items, 1):
        if number == workers:
            start = time.perf_counter()
    rate = batches * size / (time.perf_counter() - start)
    print(f"{rate:.0f} items/s from {workers} loader processes, {rate / workers:.0f} items/s each")


def _training_arguments(recipe: Path, data: Path, noise: Path | None, exp: str, options: tuple[str, ...]) -> list[str]:
    places = {"config": recipe, "data": data, "noise": noise}
    return [f"--{name}={place.resolve()}" for name, place in places.items() if place] + [f"--exp={exp}", *options]


@contextmanager
def measured(what: str) -> Iterator[None]:
    """Print the wall-clock and CPU seconds of the block, and the rise of resident memory during it, in MiB.

    CPU seconds far below the wall-clock seconds mean that other programs used the cores.
    """
    before, peak, done = _resident_mib(), [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            peak[0] = max(peak[0], _resident_mib())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start, start_cpu = time.perf_counter(), time.process_time()
    try:
        yield
    finally:
        seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
        done.set()
        watcher.join()
    rise = max(peak[0], _resident_mib()) - before
    print(f"{what:<75} {seconds:7.2f} s {cpu:7.2f} s of CPU {rise:+7.0f} MiB", flush=True)


def print_setting() -> None:
    """Print the command and the machine, without which figures cannot be compared."""
    print("$", "python", *sys.argv)
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}, numpy {np.__version__}, "
        f"{torch.cuda.get_device_name() if torch.cuda.is_available() else 'no GPU'}",
        flush=True,
    )


def _synthetic_trials(rng: np.random.Generator, count: int, utterances: int, speaker: np.ndarray) -> Trials:
    """Half target trials, half random pairs. Utterance u is of speaker u modulo the number of speakers."""
    enrol = rng.integers(utterances, size=count)
    speakers = speaker.max() + 1
    same = speaker[enrol] + speakers * rng.integers(utterances // speakers, size=count)
    test = np.where(np.arange(count) % 2, same, rng.integers(utterances, size=count))
    ids = [f"id{speaker[row]:05d}-{row:011d}-00001" for row in range(utterances)]
    return Trials(ids, enrol, test, speaker[enrol] == speaker[test])


def _synthetic_clusters(
    rng: np.random.Generator, utterances: int, size: int, clusters: int, block: int = 1 << 16
) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings float32 [n, E] around one centre per speaker, and the speakers int [n], of unequal frequency."""
    shares = rng.lognormal(sigma=0.5, size=clusters)
    speaker = rng.choice(clusters, size=utterances, p=shares / shares.sum())
    voices = rng.standard_normal((clusters, size), dtype=np.float32)
    embeddings = np.empty((utterances, size), np.float32)
    for start in range(0, utterances, block):  # in blocks, to avoid two more copies of the whole
        of_block = voices[speaker[start : start + block]]
        embeddings[start : start + block] = of_block + 1.5 * rng.standard_normal(of_block.shape, dtype=np.float32)
    return embeddings, speaker


def _resident_mib() -> float:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 2**20
    except OSError:  # not Linux: the peak so far is the best available
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


if __name__ == "__main__":
    print_setting()
    auto_cli({"score": score, "cluster": cluster, "step": step, "loader": loader})
