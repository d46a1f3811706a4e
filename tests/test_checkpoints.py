"""Checkpoints are complete or absent, cannot run code, and give back the encoder that was saved."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from cslib import checkpoints
from cslib.checkpoints import load_encoder, mean_state
from cslib.config import UserError
from cslib.models import galr

SMALL = {
    "window": 400,
    "filters": 8,
    "features": 8,
    "hidden": 4,
    "segment": 8,
    "heads": 2,
    "low_dim": 2,
    "shared_blocks": 1,
    "speech_blocks": 1,
    "speaker_blocks": 1,
    "embedding_size": 4,
}


@pytest.fixture
def network():
    torch.manual_seed(1)
    return galr.build(galr.Config(**SMALL))


@pytest.fixture
def final(network, tmp_path):
    checkpoints.save(
        tmp_path / "final.pt",
        {"config": {"network": {"name": "galr", **SMALL}}, "encoder": checkpoints.encoder_state(network)},
    )
    return tmp_path / "final.pt"


def test_loaded_encoder_embeds_like_the_saved_one(network, final):
    audio, lengths = torch.randn(2, 8000), torch.tensor([8000, 6000])
    loaded = load_encoder(final)
    assert not loaded.training and loaded.embedding_size == 4
    assert torch.equal(loaded.embed(audio, lengths), network.eval().embed(audio, lengths))


def test_saved_state_is_a_copy_that_further_training_leaves_alone(network):
    state = checkpoints.encoder_state(network)
    before = {name: value.clone() for name, value in state.items()}
    for parameter in network.parameters():
        parameter.data += 1
    assert all(torch.equal(state[name], before[name]) for name in state)


class Unpleasant:
    def __reduce__(self):
        return print, ("this must not run",)


def spoil(path, how):
    data = path.read_bytes()
    if how == "cut off":
        path.write_bytes(data[: len(data) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "text":
        path.write_text("hello world\n" * 10)
    elif how == "pickle":
        path.write_bytes(pickle.dumps({"encoder": Unpleasant()}))
    elif how == "code":
        torch.save({"encoder": Unpleasant()}, path)
    elif how == "tensor":
        torch.save(torch.zeros(3), path)
    elif how == "folder":
        path.unlink()
        path.mkdir()


@pytest.mark.parametrize("how", ["cut off", "empty", "text", "pickle", "code", "tensor", "folder"])
def test_wrong_file_is_one_sentence_and_runs_nothing(final, how, capsys):
    spoil(final, how)
    with pytest.raises(UserError) as error:
        load_encoder(final)
    message = str(error.value)
    assert str(final) in message and "\n" not in message and len(message) < 400 and "not a" in message
    assert "must not run" not in capsys.readouterr().out


def mutations(data, count, seed):
    """Copies of `data` that are cut off, lack bytes, have more bytes or have other bytes, one to eight in a row."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        # Half of them near the end, where the directory of the zip file is, or in the pickle at the beginning.
        place = int(rng.choice([rng.integers(len(data)), len(data) - 1 - rng.integers(3000), rng.integers(2000)]))
        some = rng.bytes(int(rng.integers(1, 9)))
        yield [
            data[:place],
            data[:place] + data[place + len(some) :],
            data[:place] + some + data[place:],
            data[:place] + bytes([data[place] ^ 1 << rng.integers(8)]) + data[place + 1 :],
            data[:place] + some + data[place + len(some) :],
        ][number % 5]


def same(one, other):
    if isinstance(one, dict):
        return isinstance(other, dict) and list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def test_damaged_file_is_one_sentence_and_never_other_weights(final):
    data, whole, refused = final.read_bytes(), checkpoints.load(final), 0
    for damaged in mutations(data, 300, seed=0):
        final.write_bytes(damaged)
        try:
            assert same(checkpoints.load(final), whole)  # a byte that nothing reads, such as padding
        except UserError as error:
            message = str(error)
            assert message == f"{final}: damaged, or not a checkpoint of this project"
            refused += 1
            with pytest.raises(UserError, match="damaged"):
                load_encoder(final)
        else:
            load_encoder(final)
    assert refused > 200


@pytest.mark.parametrize(
    "change",
    [
        {"config": None},
        {"config": {}},
        {"config": {"network": ["galr"]}},
        {"config": {"network": {}}},
        {"config": {"network": {"name": ["galr"]}}},
        {"config": {"network": {"name": "galr", "colour": 1}}},
        {"config": {"network": {"name": "galr", "filters": "many"}}},
        {"config": {"network": {"name": "galr"}}},
        {"encoder": None},
        {"encoder": {}},
        {"encoder": {"weight": 3}},
    ],
)
def test_content_of_another_form_is_one_sentence(final, change):
    state = {**checkpoints.load(final), **change}
    checkpoints.save(final, state)
    with pytest.raises(UserError) as error:
        load_encoder(final)
    assert "\n" not in str(error.value)


OLD = json.loads(Path(__file__).with_name("old_checkpoints.json").read_text())


def old_state(shapes):
    """A state dict with these names, types and shapes; the values are those that gave the outputs in the file."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, (kind, *shape) in shapes.items():
        value = 0.1 * torch.randn(shape, generator=generator)
        if name.endswith("running_var"):
            value = value.abs() + 0.5
        state[name] = value if kind == "float32" else torch.ones(shape, dtype=getattr(torch, kind))
    return state


@pytest.mark.parametrize("name", OLD)
def test_checkpoint_of_earlier_code_loads_and_computes_the_same(tmp_path, name):
    """old_checkpoints.json holds networks of November 2026: config, names and shapes of the weights, and an output."""
    old = OLD[name]
    path = tmp_path / "final.pt"
    torch.save({"config": {"network": old["network"]}, "step": 1, "encoder": old_state(old["encoder"])}, path)
    network = load_encoder(path)
    audio = 0.1 * torch.randn(1, 8000, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        output = network.embed(audio)[0] if hasattr(network, "embed") else network.enhance(audio)[0, 4000:4008]
    torch.testing.assert_close(output, torch.tensor(old["output"]), rtol=1e-3, atol=1e-6)


def test_missing_and_unfinished_files_are_one_sentence(tmp_path):
    with pytest.raises(UserError, match="none.pt: there is no such checkpoint"):
        load_encoder(tmp_path / "none.pt")
    checkpoints.save(tmp_path / "step-00000001.pt", {"model": {}, "step": 1})
    with pytest.raises(UserError, match="not a finished training's final.pt"):
        load_encoder(tmp_path / "step-00000001.pt")


def test_starting_point_of_another_size_is_one_sentence(final):
    other = galr.build(galr.Config(**{**SMALL, "features": 16}))
    with pytest.raises(UserError, match="final.pt: its network is not the config's"):
        checkpoints.start_from(final, other)


def test_start_from_gives_the_weights(final, network):
    torch.manual_seed(2)
    other = galr.build(galr.Config(**SMALL))
    checkpoints.start_from(final, other)
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in other.state_dict().items())


def test_mean_state_is_the_mean_of_weights_and_the_last_of_counters():
    states = [{"w": torch.tensor([1.0, 2.0]) * n, "count": torch.tensor(n)} for n in (1, 2, 6)]
    found = mean_state(states)
    assert torch.equal(found["w"], torch.tensor([3.0, 6.0])) and found["count"] == 6
    assert torch.equal(mean_state(states[:1])["w"], states[0]["w"])


def test_numbered_checkpoints_come_in_order_and_nothing_else_does(tmp_path):
    for step in (100, 20, 3):
        checkpoints.numbered_path(tmp_path, step).touch()
    for name in ("final.pt", "step-00000004.pt.tmp", ".writing-1-step-00000005.pt", "step-x.pt"):
        (tmp_path / name).touch()
    wanted = [checkpoints.numbered_path(tmp_path, step) for step in (3, 20, 100)]
    assert checkpoints.numbered(tmp_path) == wanted


def test_the_same_state_is_saved_as_the_same_bytes(tmp_path):
    for name in ("a.pt", "b.pt"):
        checkpoints.save(tmp_path / name, {"step": 1, "weights": torch.ones(3)})
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()


def test_leftovers_of_killed_runs_are_removed(tmp_path):
    (tmp_path / ".writing-1-step-00000005.pt").write_bytes(b"half")
    checkpoints.save(tmp_path / "step-00000006.pt", {"step": 6})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000006.pt"]


def test_save_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    checkpoints.save(tmp_path / "a.pt", {"step": 1})

    def full(_, file):
        file.write(b"half")
        raise RuntimeError(
            "[enforce fail at inline_container.cc] . PytorchStreamWriter failed writing file\n"
            "frame #0: c10::ThrowEnforceNotMet"
        )

    with monkeypatch.context() as patch, pytest.raises(UserError, match="could not be written") as error:
        patch.setattr(torch, "save", full)
        checkpoints.save(tmp_path / "a.pt", {"step": 2})
    assert "\n" not in str(error.value) and "frame #0" not in str(error.value)
    assert checkpoints.load(tmp_path / "a.pt") == {"step": 1} and len(list(tmp_path.iterdir())) == 1


def test_content_digest_is_that_of_the_network_and_its_weights_alone(tmp_path):
    network = galr.build(galr.Config(**SMALL))
    state = {"config": {"network": {"name": "galr", **SMALL}}, "encoder": checkpoints.encoder_state(network)}
    for name, more in (("one", {"commit": "a", "step": 1}), ("same", {"commit": "b", "step": 2})):
        checkpoints.save(tmp_path / f"{name}.pt", {**state, **more})
    first = next(iter(state["encoder"]))
    changed = {**state["encoder"], first: state["encoder"][first] + 1}
    checkpoints.save(tmp_path / "other.pt", {**state, "encoder": changed})
    digests = {name: checkpoints.content_digest(tmp_path / f"{name}.pt") for name in ("one", "same", "other")}
    assert digests["one"] == digests["same"] != digests["other"]
    (tmp_path / "foreign").write_bytes(b"weights of somebody else")
    assert checkpoints.content_digest(tmp_path / "foreign") != checkpoints.content_digest(tmp_path / "one.pt")
