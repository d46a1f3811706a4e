"""MoCo against its equation and its algorithm, transcribed literally, and what it keeps."""

import copy
import math
from collections import deque

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from cslib.config import UserError
from cslib.objectives.crops import augmented, embed_each
from cslib.objectives.moco.loss import info_nce_loss
from cslib.objectives.moco.queue import KeyQueue
from tests.objectives.tiny_siamese import batch_of, make_task, means_of, objective, steps, unit_vectors


@pytest.fixture
def task(tmp_path):
    return make_task(tmp_path)


def moco_of(task, **values):
    return objective("moco", task, **{"queue": 24, "momentum": 0.8, "temperature": 0.2, **values})


def literal_info_nce(queries, keys, negatives_of, temperature):
    """Equation 1 of He et al. (2020): one query at a time, with the list of its negatives."""

    def term(one, other):
        return torch.exp(sum(a * b for a, b in zip(one, other, strict=True)) / temperature)

    total = 0.0
    for query, key, negatives in zip(queries, keys, negatives_of, strict=True):
        positive = term(query, key)
        total = total - torch.log(positive / (positive + sum(term(query, negative) for negative in negatives)))
    return total / len(queries)


@pytest.mark.parametrize("temperature", [0.03, 0.5])
def test_loss_and_gradient_are_those_of_the_equation(temperature):
    leaf, queries = unit_vectors(4, 5)
    keys, queue = unit_vectors(4, 5, seed=1)[1].detach(), unit_vectors(7, 5, seed=2)[1].detach()
    allowed = torch.rand(4, 7, generator=torch.Generator().manual_seed(3)) < 0.6
    allowed[3] = False
    chosen = [queue[mask] for mask in allowed]
    wanted = literal_info_nce(queries, keys, chosen, temperature)
    (gradient,) = torch.autograd.grad(wanted, leaf, retain_graph=True)
    found = info_nce_loss(queries, keys, queue, allowed, temperature)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(torch.autograd.grad(found, leaf)[0], gradient)


@pytest.mark.parametrize("length, batch", [(12, 4), (10, 4), (5, 5), (7, 3)])
def test_queue_holds_the_newest_keys_whatever_its_length(length, batch):
    queue, wanted = KeyQueue(2, length, 3), deque(maxlen=length)
    generator = torch.Generator().manual_seed(0)
    for number in range(9):
        keys, owners = torch.randn(batch, 2, 3, generator=generator), torch.arange(batch) + batch * number
        queue.push(keys, owners)
        wanted.extend(zip(owners.tolist(), keys, strict=True))
        held = {int(owner): queue.keys[:, place] for place, owner in enumerate(queue.owners) if owner >= 0}
        assert held.keys() == {owner for owner, _ in wanted}
        assert all(torch.equal(held[owner], key) for owner, key in wanted)


def test_keys_of_the_querys_own_utterance_are_no_negatives_and_are_counted():
    queue = KeyQueue(1, 5, 2)
    queue.push(torch.ones(4, 1, 2), torch.tensor([3, 1, 3, 2]))
    negatives, same = queue.negatives(torch.tensor([3, 0]))
    assert negatives.tolist() == [[False, True, False, True, False], [True, True, True, True, False]]
    assert same.sum(1).tolist() == [2, 0]


@pytest.mark.parametrize("symmetric", [True, False])
def test_several_steps_are_those_of_the_algorithm(task, symmetric):
    """Algorithm 1 of He et al. (2020) in its order, with lists in place of the queue and one network at a time."""
    moco = moco_of(task, symmetric=symmetric, projector=[10, 6], queue=20, momentum=0.6)
    queues, averages = [deque(maxlen=20), deque(maxlen=20)], None
    optimiser = torch.optim.SGD(moco.parameter_groups(), lr=0.1)
    for moco.step in range(5):
        batch = batch_of(moco, 8 * moco.step)
        query_networks = copy.deepcopy((moco.encoder, moco.projector))
        if averages is None:
            averages = copy.deepcopy(query_networks)
            for network in averages:
                network.eval()
        crops, owners = augmented(batch, "global"), batch["owner"].tolist()
        with torch.no_grad():
            embedded = query_networks[0](crops.flatten(0, 1) if symmetric else crops[:, 0])
            queries = F.normalize(query_networks[1](embedded), dim=1).unflatten(0, (8, -1)).double()
            keys = [F.normalize(averages[1](averages[0](crop)), dim=1).double() for crop in crops.unbind(1)]
        wanted = []
        for view in range(2 if symmetric else 1):
            negatives = [[key for owner, key in queues[view] if owner != mine] for mine in owners]
            wanted.append(literal_info_nce(queries[:, view], keys[1 - view], negatives, 0.2))
        told = moco(batch)
        assert told.total.item() == pytest.approx((sum(wanted) / len(wanted)).item(), rel=1e-4, abs=1e-6)
        counted = np.mean([sum(owner == mine for owner, _ in queues[0]) for mine in owners])
        assert told.diagnostics["same_utterance"].item() == pytest.approx(counted)
        assert told.diagnostics["negatives"].item() == pytest.approx(len(queues[0]) - counted)
        optimiser.zero_grad()
        told.total.backward()
        optimiser.step()
        moco.after_step()
        for average, network in zip(averages, (moco.encoder, moco.projector), strict=True):
            for mine, its in zip(_values(average), _values(network), strict=True):
                momentum = min(0.6, moco.step / (moco.step + 1))
                mine.copy_(momentum * mine + (1 - momentum) * its)
        for view in range(2):  # the ring of a direction holds the keys of the other crop
            queues[view].extend(zip(owners, keys[1 - view], strict=True))
    assert told.diagnostics["same_utterance"] > 0, "the queue is longer than the set"


def _values(network):
    """Parameters and running statistics, in place."""
    return [value.data for value in (*network.parameters(), *network.buffers()) if value.is_floating_point()]


def test_momentum_encoder_follows_and_gets_no_gradient(task):
    moco = moco_of(task, projector=[10, 6])
    steps(moco, 5)
    assert all(p.grad is None and not p.requires_grad for p in moco.key_encoder.parameters())
    optimised = {id(parameter) for group in moco.parameter_groups() for parameter in group["params"]}
    assert optimised == {id(parameter) for part in (moco.encoder, moco.projector) for parameter in part.parameters()}
    before = [value.clone() for value in _values(moco.key_encoder)]
    steps(moco, 1)
    for old, mine, its in zip(before, _values(moco.key_encoder), _values(moco.encoder), strict=True):
        torch.testing.assert_close(mine, 0.8 * old + 0.2 * its)


def test_momentum_is_that_of_a_plain_mean_at_first(task):
    moco, found = moco_of(task, momentum=0.7), []
    for moco.step in range(5):
        found.append(moco.momentum())
    assert found == pytest.approx([0, 1 / 2, 2 / 3, 0.7, 0.7])


def test_key_encoder_starts_from_the_encoder_of_start_from(task):
    moco = moco_of(task)
    for parameter in moco.embedding_network().parameters():  # as --start-from does
        parameter.data.add_(1.0)
    moco(batch_of(moco))
    pairs = zip(moco.key_encoder.parameters(), moco.encoder.parameters(), strict=True)
    assert all(torch.equal(mine, its) for mine, its in pairs)


def test_key_depends_on_its_own_crop_alone_unless_it_is_normalised_over_the_batch(task):
    """Otherwise batch statistics could tell which key is the positive."""
    for key_norm, alone in (("running", True), ("batch", False)):
        moco = moco_of(task, key_norm=key_norm)
        steps(moco, 2)
        norms = [module for module in moco.key_encoder.modules() if isinstance(module, _BatchNorm)]
        assert norms and all(norm.training != alone for norm in norms)
        crops = augmented(batch_of(moco), "global")
        whole, half = moco._keys(crops)[1][:4], moco._keys(crops[:4])[1]
        assert torch.allclose(whole, half, atol=1e-5) == alone
        assert moco.encoder.training


def test_with_batch_statistics_running_ones_are_the_key_encoders_own(task):
    moco = moco_of(task, key_norm="batch", momentum=1.0)
    steps(moco, 3)
    assert moco.key_encoder.stem[1].num_batches_tracked == 3
    assert not torch.equal(moco.key_encoder.stem[1].running_mean, moco.encoder.stem[1].running_mean)


def test_clusters_own_their_keys_where_crops_come_from_clusters(task):
    task.labels = np.array([0, 0, 1, 1, 1, -1, -1, 2])
    moco = moco_of(task, views={"positives": "cluster"})
    owners = {}
    for index in range(8):
        item = moco.dataset[index]
        owners[int(item["ids"].split()[0][1:])] = int(item["owner"])
    assert owners[0] == owners[1] and owners[2] == owners[3] == owners[4]
    assert len({owners[row] for row in (0, 2, 5, 6, 7)}) == 5
    plain = moco_of(make_plain(task))
    assert len({int(plain.dataset[index]["owner"]) for index in range(8)}) == 8


def make_plain(task):
    task.labels = None
    return task


def test_queue_shorter_than_the_set_and_not_a_multiple_of_the_batch_trains(task):
    task.batch_size = 3
    moco = moco_of(task, queue=5)
    for _ in range(6):
        (told,) = steps(moco, 1, batch_of(moco, 3 * moco.step, 3))
        assert told.total.isfinite()
    assert told.diagnostics["negatives"] + told.diagnostics["same_utterance"] == 5


@pytest.mark.parametrize(
    "values, sentence",
    [
        ({"queue": 7}, "objective.queue is 7; it must be at least training.batch_size, 8"),
        ({"momentum": 1.1}, "objective.momentum is 1.1; it must be between 0 and 1"),
        ({"key_norm": "layer"}, "objective.key_norm is layer; it must be running or batch"),
        ({"temperature": -1.0}, "objective.temperature is -1.0; it must be more than 0"),
    ],
)
def test_bad_value_is_one_sentence(task, values, sentence):
    with pytest.raises(UserError, match=sentence):
        moco_of(task, **values)


def test_encoder_and_momentum_encoder_are_those_to_compile(task):
    moco = moco_of(task)
    assert moco.networks() == [moco.encoder, moco.key_encoder] and moco.embedding_network() is moco.encoder


def test_guess_is_that_of_the_negatives_that_there_are(task):
    moco = moco_of(task)
    told = steps(moco, 2)[-1]
    moco.step = 50
    means = means_of(told) | {"negatives": 7.0, "embedding_std": 0.5}
    assert moco.warning(means | {"loss": 0.98 * math.log(8)}) is None
    assert "guessing among the keys gives 2.08" in moco.warning(means | {"loss": math.log(8)})


def test_embeddings_of_both_networks_are_watched(task):
    moco = moco_of(task, symmetric=False)
    batch = batch_of(moco)
    embeddings = embed_each(copy.deepcopy(moco).encoder, augmented(batch, "global")[:, :1])
    told = moco(batch)
    assert {"agreement", "effective_rank", "embedding_std"} <= told.diagnostics.keys()
    assert embeddings.shape[1] == 1
