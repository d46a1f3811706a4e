"""How long trainings will take, from a few steps of each."""

import pytest

from cslib.config import UserError, parse
from local import estimate_time
from tests.tiny_run import make_set

MARGIN = """
like: config.yaml
objective: {name: margin, crops: {seconds: 0.5}}
network: {name: resnet, channels: [4, 4], blocks: [1, 1], num_mels: 20, embedding_size: 8}
training: {steps: 5000}
"""


@pytest.fixture
def data(tmp_path):
    return make_set(tmp_path / "set")


def estimate(data, **options):
    words = ["--data", str(data), "--device", "cpu"]
    words += [word for name, value in options.items() for word in (f"--{name}", value)]
    estimate_time.main(parse(estimate_time.Options, words))


def test_every_training_is_measured_and_nothing_is_left(data, tmp_path, capsys):
    (tmp_path / "margin.yaml").write_text(MARGIN.replace("like: config.yaml\n", ""))
    before = sorted(tmp_path.rglob("*.pt"))
    estimate(data, trainings=f"csc={tmp_path / 'config.yaml'}", labelled=f"round1={tmp_path / 'margin.yaml'}")
    csc, margin, total = capsys.readouterr().out.splitlines()[-3:]
    assert csc.startswith("training csc: 8 steps of ") and margin.startswith("training round1: 5,000 steps of ")
    seconds = float(margin.split()[5])
    assert 0 < seconds < 10
    assert total.startswith("all trainings together: ")
    assert sorted(tmp_path.rglob("*.pt")) == before


def test_durations_read_as_people_say_them():
    said = [estimate_time.duration(seconds) for seconds in (5, 12 * 60, 125 * 60)]
    assert said == ["less than a minute", "about 12 min", "about 2 h 5 min"]


def test_a_list_without_names_is_refused(data):
    with pytest.raises(UserError, match="NAME=CONFIG"):
        estimate(data, trainings="csc.yaml")
