"""What each network can be used for, and that a network is added by one file: the example in cslib/models/base.py."""

import importlib.util
import shutil
import subprocess
import sys

import pytest
import torch
import yaml

from cslib import checkpoints
from cslib.config import find, known_names
from cslib.models import base
from tests.tiny_run import ENVIRONMENT, ROOT, make_set

SPEAKER = {"SpeakerEncoder", "FineTunable", "FramePooled"}
PROTOCOLS = {
    "crn": {"EnhancementNetwork"},
    "ecapa": SPEAKER,
    "galr": {"SpeakerEncoder", "StreamEncoder", "Staged"},
    "mask_gru": {"EnhancementNetwork"},
    "res2net": SPEAKER | {"Staged"},
    "resnet": SPEAKER | {"Staged"},
    "tf_conformer": {"EnhancementNetwork"},
}
SMALL = {
    "crn": {"channels": [4, 6], "recurrent_blocks": 1},
    "ecapa": {"num_mels": 24, "channels": 16, "scale": 4, "aggregation": 12, "embedding_size": 8},
    "galr": {"features": 8, "hidden": 6, "segment": 8, "low_dim": 3, "heads": 2, "embedding_size": 6},
    "mask_gru": {"hidden": 8},
    "res2net": {"num_mels": 24, "channels": [4, 6], "blocks": [1, 1], "base_width": 32, "embedding_size": 8},
    "resnet": {"num_mels": 24, "channels": [4, 6], "blocks": [1, 1], "embedding_size": 8},
    "tf_conformer": {"channels": 8, "blocks": 1, "heads": 2, "dense_layers": 2},
}
every_network = pytest.mark.parametrize("name", sorted(PROTOCOLS))


def network(name):
    torch.manual_seed(0)
    module = find("models", name)
    return module.build(module.Config(**SMALL[name])).eval()


def test_every_network_is_listed_here():
    assert set(PROTOCOLS) == set(SMALL) == set(known_names("models"))


@every_network
def test_networks_have_these_protocols_and_no_others(name):
    model = network(name)
    protocols = [*SPEAKER, "StreamEncoder", "Staged", "EnhancementNetwork"]
    assert {protocol for protocol in protocols if isinstance(model, getattr(base, protocol))} == PROTOCOLS[name]


@every_network
def test_only_the_config_of_a_separating_network_has_streams(name):
    assert isinstance(find("models", name).Config(), base.Separative) == (name == "galr")


@every_network
@torch.no_grad()
def test_shapes_are_those_of_the_protocols(name):
    model, audio, lengths = network(name), 0.1 * torch.randn(2, 8000), torch.tensor([8000, 5000])
    if isinstance(model, base.SpeakerEncoder):
        assert model.embed(audio, lengths).shape == (2, model.embedding_size)
        assert model.embed(audio).shape == (2, model.embedding_size)
    if isinstance(model, base.StreamEncoder):
        assert model.embed_streams(audio, lengths).shape == (2, 2, model.embedding_size)
    if isinstance(model, base.Staged):
        assert all(len(stage) == 2 and stage.isfinite().all() for stage in model.stages(audio))
    if isinstance(model, base.EnhancementNetwork):
        enhanced = model.enhance(audio, lengths)
        assert enhanced.dtype == torch.float32 and enhanced.shape == audio.shape and not enhanced[1, 5000:].any()


@pytest.mark.parametrize("name", [name for name, protocols in PROTOCOLS.items() if "FramePooled" in protocols])
@torch.no_grad()
def test_embedding_layers_take_what_the_pooling_layer_gives(name):
    model, pooled = network(name), []
    model.pooling_layer().register_forward_hook(lambda _, inputs, output: pooled.append((inputs[0], output)))
    expected = model.embed(0.1 * torch.randn(2, 8000))
    ((frames, found),) = pooled
    assert found.shape == (2, model.pooling_layer().output_size) and found.shape[1] == 2 * frames.shape[1]
    for layer in model.embedding_layers():
        found = layer(found)
    assert torch.equal(found, expected)


def example():
    """The file in the docstring of cslib/models/base.py."""
    block = base.__doc__.partition("a linear layer::\n")[2].partition("\n\nWith this file")[0]
    return "\n".join(line.removeprefix("    ") for line in block.strip("\n").splitlines()) + "\n"


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of the library and its scripts, with the example as one new file."""
    root = tmp_path_factory.mktemp("tree")
    for folder in ("cslib", "local"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (root / "cslib/models/mel_statistics.py").write_text(example())
    return root


def run(tree, *words):
    subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=tree,
        env=ENVIRONMENT | {"PYTHONPATH": str(tree)},
        check=True,
        timeout=120,
    )


@pytest.mark.slow
def test_one_new_file_is_a_network_that_trains_and_embeds(tree):
    data = make_set(tree / "data/train", seconds=0.6)
    config = {
        "network": {"name": "mel_statistics", "embedding_size": 8},
        "objective": {
            "name": "dino",
            "prototypes": 16,
            "hidden": 16,
            "bottleneck": 8,
            "views": {"global_seconds": 0.4, "local_seconds": 0.2, "local_crops": 2},
        },
        "training": {"steps": 3, "batch_size": 4, "workers": 0},
    }
    (tree / "new.yaml").write_text(yaml.safe_dump(config))
    exp = tree / "exp/new"
    run(tree, "local/train.py", "--config", "new.yaml", "--data", data, "--exp", exp, "--device", "cpu")
    assert checkpoints.load(exp / "checkpoints/final.pt")["config"]["network"]["name"] == "mel_statistics"
    words = ["--checkpoint", exp / "checkpoints/final.pt", "--cuts", data, "--out", exp / "embeddings"]
    run(tree, "local/extract_embeddings.py", *words, "--device", "cpu", "--workers", "0")
    assert len((exp / "embeddings.scp").read_text().splitlines()) == 8


def test_the_example_satisfies_the_rule_about_padding(tree, monkeypatch):
    spec = importlib.util.spec_from_file_location("mel_statistics", tree / "cslib/models/mel_statistics.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "mel_statistics", module)
    spec.loader.exec_module(module)
    torch.manual_seed(0)
    model = module.build(module.Config()).eval()
    assert isinstance(model, base.SpeakerEncoder)
    audio, lengths = 0.1 * torch.randn(2, 8000), torch.tensor([8000, 5000])
    together = model.embed(audio, lengths)
    torch.testing.assert_close(together[1:], model.embed(audio[1:, :5000]), atol=1e-5, rtol=1e-4)
