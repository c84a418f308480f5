"""What a GPU needs to stay busy, counted on the CPU: no step waits for the device, and all have the same shapes."""

import gc
import itertools
import weakref
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from darec.common.interactions import Batch, Interactions, ItemLists, Pairs
from darec.model import clustering, losses, softmax
from darec.training.replay import Replay, Terms, cuda_graph
from darec.training.trainer import Trainer
from schemas.alignment import DaRecConfig, DistillConfig, RetrievedGraphConfig
from schemas.backbones import LightGCNConfig, MFConfig
from schemas.training import TrainConfig
from tests.checkerboard import checkerboard, parity_text
from tests.pretended_gpu import DEVICE, moved

WAITING = {
    "_local_scalar_dense",  # item(), int(), float(), tolist()
    "nonzero",
    "masked_select",
    "_unique2",
    "unique_dim",
    "equal",
    "bincount",
    "multinomial",
    "repeat_interleave",
}
"""Operations after which the host has to know what the device has computed."""

SMALL = {"dim": 8, "batch_size": 128, "learning_rate": 0.02, "device": "cpu", "log_steps": 1}
CONFIGS = {
    "plain": TrainConfig(backbone=LightGCNConfig(edge_keep=0.8), alignment=(), clip_norm=0.1, **SMALL),
    "factorisation": TrainConfig(backbone=MFConfig(), alignment=(), scoring="cosine", **SMALL),
    "DaRec": TrainConfig(alignment=(DaRecConfig(sample=24, every=1, recluster_steps=4),), **SMALL),
    "DaRec, few samples": TrainConfig(alignment=(DaRecConfig(sample=48, recluster_steps=2, every=3),), **SMALL),
    "DaRec, warm-up": TrainConfig(
        alignment=(DaRecConfig(sample=24, every=1, recluster_steps=9, warmup_epochs=3),), **SMALL
    ),
    "DaRec, greedy": TrainConfig(
        alignment=(
            DaRecConfig(sample=24, every=1, recluster_steps=4, matching="greedy", sides="joint", sample_from="uniform"),
        ),
        **SMALL,
    ),
    "ProMax": TrainConfig(alignment=(DistillConfig(scores="cosine", users="certain"), RetrievedGraphConfig()), **SMALL),
}

KINDS = dict.fromkeys(CONFIGS, 2) | {"plain": 1, "factorisation": 1, "ProMax": 1, "DaRec, few samples": 3}
"""How many kinds of steps there are: with a sample, with k-means, with the last gradient."""

TERMS = {
    "DaRec": ("darec/global_structure", "darec/local_structure"),
    "ProMax": ("distill", *(f"retrieved-graph/{name}" for name in ("users", "items", "cross"))),
}
"""The terms of the loss in addition to the ranking's."""


class Recorder(TorchDispatchMode):
    """The operations of each step with the shapes of their results, and those that wait."""

    def __init__(self) -> None:
        super().__init__()
        self.waited: list[str] = []
        self.steps: list[list[tuple[str, tuple[int, ...]]]] = [[]]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::")
        masks = [
            each for arg in args if isinstance(arg, list | tuple) for each in arg if isinstance(each, torch.Tensor)
        ]
        by_mask = name in ("index", "index_put", "index_put_") and any(each.dtype == torch.bool for each in masks)
        to_device = name == "_to_copy" and (kwargs or {}).get("device")
        if name in WAITING or by_mask or to_device:
            self.waited.append(name)
        if isinstance(result, torch.Tensor):
            self.steps[-1].append((name, tuple(result.shape)))
        return result


NO_KERNEL = {
    "empty",
    "empty_like",
    "new_empty",
    "empty_strided",
    "detach",
    "alias",
    "_unsafe_view",
    "_reshape_alias",
    "promote_types",
}
"""Operations that only make a tensor or a view of one."""


class Kernels(TorchDispatchMode):
    """Counts the operations that are a kernel on a GPU, whatever its size."""

    def __init__(self) -> None:
        super().__init__()
        self.launched = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kind, _, name = func._schema.name.partition("::")
        if kind == "aten" and not func.is_view and name not in NO_KERNEL:
            self.launched += 1 + (name == "addmm" and args[0].dim() == 2)  # it copies a matrix that it adds to
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return checkerboard(tmp_path_factory.mktemp("checkerboard"))


@pytest.mark.parametrize("name", CONFIGS)
def test_no_step_waits_and_all_have_the_same_shapes(name, data):
    torch.manual_seed(0)
    trainer = Trainer(CONFIGS[name], data, parity_text(data), None, torch.device("cpu"), fixed=True)
    trainer.run_epoch()  # makes the optimiser's state
    trainer.model.train()
    trainer.model.start_epoch(trainer.epoch)
    recorder, advance, steps = Recorder(), trainer._advance, []

    def recorded(batch):
        recorder.steps.append([])  # what comes before, as drawing samples for several steps, is in no recording
        terms = advance(batch)
        steps.append(recorder.steps[-1])
        recorder.steps.append([])
        return terms

    trainer._advance = recorded
    with recorder:
        for batch in trainer.sampler.epoch():
            trainer._step(batch)
    assert recorder.waited == []
    assert len(steps) == len(trainer.sampler) > 8
    assert min(len(step) for step in steps) > 20
    assert len({tuple(step) for step in steps}) == KINDS[name]
    most = max(steps, key=len)  # with k-means, which is run every few steps
    assert sum(step == most for step in steps) <= len(steps) // 4 + 1 or KINDS[name] == 1


def kernels_of_steps(config, data) -> list[int]:
    torch.manual_seed(0)
    trainer = Trainer(config, data, parity_text(data), None, torch.device("cpu"), fixed=True)
    trainer.run_epoch()
    trainer.model.train()
    trainer.model.start_epoch(trainer.epoch)
    counts = []
    for batch in trainer.sampler.epoch():
        with Kernels() as kernels:
            trainer._step(batch)
        counts.append(kernels.launched)
    return counts


def test_darec_adds_few_kernels_to_a_step(data, monkeypatch):
    """They are small, so that on a GPU their number is their time. There were 11, 89 and 302 of them."""
    monkeypatch.setattr(losses, "bfloat16_helps", lambda device: True)  # as on a GPU
    config = CONFIGS["DaRec, few samples"]
    plain, aligned = (kernels_of_steps(each, data) for each in (config.model_copy(update={"alignment": ()}), config))
    assert len(set(plain)) == 1
    reused, sampled, clustered, *_ = sorted(set(aligned))
    assert reused - plain[0] <= 5
    assert sampled - plain[0] <= 54
    assert clustered - sampled <= 244


@pytest.mark.parametrize("name", CONFIGS)
def test_a_step_needs_no_value_and_nothing_of_the_cpu(name, tmp_path, monkeypatch):
    monkeypatch.setitem(softmax._BLOCK, DEVICE.type, softmax._BLOCK["cuda"])
    data = checkerboard(tmp_path)
    trainer = Trainer(CONFIGS[name], data, parity_text(data), None, torch.device("cpu"), fixed=True)
    trainer.run_epoch()
    with moved(trainer):
        for batch in trainer.sampler.epoch():
            terms = trainer._step(batch)
    assert terms.values.device == DEVICE


def test_the_device_without_values_refuses_what_a_gpu_waits_for(tmp_path):
    trainer = Trainer(CONFIGS["plain"], checkerboard(tmp_path), None, None, torch.device("cpu"), fixed=False)
    rows, cpu = torch.zeros(3, device=DEVICE), torch.ones(())
    with moved(trainer):
        for waits in (
            lambda: next(trainer.sampler.epoch()),
            lambda: rows.sum().item(),
            lambda: rows[rows > 0],
            lambda: torch.unique(rows),
            lambda: torch.where(rows > 0, rows, cpu),
            lambda: rows + torch.zeros(3),
        ):
            with pytest.raises((RuntimeError, NotImplementedError), match="(?i)meta|device"):
                waits()


def test_the_recorder_hears_what_waits(data):
    trainer = Trainer(CONFIGS["DaRec"], data, parity_text(data), None, torch.device("cpu"))
    with Recorder() as recorder:
        trainer.run_epoch()
        float(torch.ones(()))
    assert {"_local_scalar_dense", "nonzero", "_unique2", "equal"} <= set(recorder.waited)


def test_an_epoch_reads_its_losses_at_its_end_only(data, monkeypatch):
    trainer = Trainer(CONFIGS["DaRec"], data, parity_text(data), None, torch.device("cpu"), fixed=True)
    trainer.run_epoch()
    read, plain = [], torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda values: [read.append(trainer.epoch), plain(values)][1])
    with Recorder() as recorder:
        trainer.run_epoch()
    assert recorder.waited == ["_local_scalar_dense"], "the number of samples, before the first step"
    assert read == [2, 2], "the losses of all steps for the history, and their sums"


@pytest.mark.parametrize("name", CONFIGS)
def test_fixed_steps_learn_as_well(name, data):
    def recall(fixed):
        torch.manual_seed(0)
        config = CONFIGS[name].model_copy(update={"epochs": 30, "patience": 30})
        trainer = Trainer(config, data, parity_text(data), None, torch.device("cpu"), fixed=fixed)
        return trainer.fit(None).validation["recall@20"]

    assert recall(True) == pytest.approx(recall(False), abs=0.05)


@pytest.mark.parametrize("name", CONFIGS)
def test_replayed_steps_are_those_of_the_plain_loop(name, data):
    """A recording is a function here: it holds no more than a CUDA graph does, which is the batch's place."""
    recorded, replayed = [], []

    def record(work):
        recorded.append(work)
        names = "ranking", *TERMS.get(name.split(",")[0], ())
        terms = Terms(names, torch.zeros(len(names)))

        def replay():
            replayed.append(work)
            found = work()
            assert found.names == names
            terms.values.copy_(found.values)

        return replay, terms

    def trace(replay):
        torch.manual_seed(0)
        config = CONFIGS[name].model_copy(update={"epochs": 3, "schedule": "cosine", "warmup_steps": 4})
        trainer = Trainer(config, data, parity_text(data), None, torch.device("cpu"), fixed=True)
        trainer.replay = Replay(trainer._advance, record) if replay else None
        return trainer.fit(None), trainer

    (plain, trainer), (fast, _) = trace(False), trace(True)
    assert fast.history.equals(plain.history)
    assert torch.equal(fast.final.nodes, plain.final.nodes)
    assert len(recorded) == KINDS[name] * (3 if "warm-up" in name else 1)
    direct = max(3, KINDS[name] + 1)  # the first steps, and the first one of each kind
    assert len(replayed) == 3 * len(trainer.sampler) - direct


def test_steps_that_cannot_be_recorded_are_taken_one_by_one(data, caplog):
    def refuse(work):
        raise RuntimeError("operation not permitted when stream is capturing")

    trainer = Trainer(CONFIGS["plain"], data, None, None, torch.device("cpu"), fixed=True)
    trainer.replay = Replay(trainer._advance, refuse)
    with caplog.at_level("INFO"):
        trainer.run_epoch()
        trainer.run_epoch()
    assert caplog.text.count("cannot be recorded") == 1
    assert trainer.step == 2 * len(trainer.sampler)


@pytest.fixture
def pretended_capture(monkeypatch):
    """A capture as PyTorch's: its exit raises before it leaves the stream. `tests/gpu` does the same on a device."""
    on, states = ["default"], list[str]()
    generator = SimpleNamespace(clone_state=lambda: "state before", graphsafe_set_state=states.append)

    @contextmanager
    def capture(graph):
        on.append("recording")
        yield

    for name, fake in {
        "CUDAGraph": lambda: SimpleNamespace(replay=None),
        "graph": capture,
        "current_stream": lambda: on[-1],
        "set_stream": on.append,
        "current_device": lambda: 0,
        "default_generators": (generator,),
    }.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    return on, states


def waits():
    raise RuntimeError("operation not permitted when stream is capturing")


def test_a_failed_recording_leaves_the_stream_and_the_random_numbers_as_they_were(pretended_capture):
    on, states = pretended_capture
    with pytest.raises(RuntimeError, match="capturing"):
        cuda_graph(waits)
    assert (on[-1], states) == ("default", ["state before"])
    assert gc.isenabled()


def test_an_earlier_model_is_freed_before_a_recording_and_not_during_it(pretended_capture):
    """To free its CUDA graph while another one is recorded makes the replay of that one fail."""

    class Model:
        pass

    def unreachable():
        model = Model()
        model.itself = model
        return weakref.ref(model)

    earlier, alive = unreachable(), []

    def work():
        alive.append(earlier() is not None)
        dropped = unreachable()
        _ = [[] for _ in range(100_000)]  # as many objects make Python collect
        alive.append(dropped() is not None)
        return Terms(("loss",), torch.zeros(1))

    cuda_graph(work)
    assert alive == [False, True]
    assert gc.isenabled()


def test_every_batch_is_full_and_all_pairs_occur(data):
    trainer = Trainer(CONFIGS["plain"], data, None, None, torch.device("cpu"), fixed=True)
    batches = list(trainer.sampler.epoch())
    assert {len(batch.users) for batch in batches} == {128}
    seen = torch.cat([batch.users * data.n_items + batch.items for batch in batches])
    assert torch.equal(torch.unique(seen), data.train.keys(data.n_items))
    assert len(seen) - len(data.train) < 128
    one = Batch(*(torch.cat([getattr(batch, part) for batch in batches]) for part in ("users", "items", "negatives")))
    assert not trainer.sampler.seen(one.users, one.negatives).any()


def test_other_items_are_drawn_uniformly():
    pairs = Pairs.of([0, 0, 0, 2, 2, 3], [0, 1, 5, 3, 2, 6])
    lists, n_items = ItemLists(pairs, 4, 7), 7
    torch.manual_seed(0)
    for user, others in {0: [2, 3, 4, 6], 1: [*range(7)], 2: [0, 1, 4, 5, 6], 3: [*range(6)]}.items():
        counts = torch.bincount(lists.draw_other(torch.full((20_000,), user)), minlength=n_items)
        assert counts.nonzero().squeeze(1).tolist() == others
        assert counts[others].float().div(20_000 / len(others)).sub(1).abs().max() < 0.1


def test_dislikes_are_preferred_in_fixed_steps_too():
    pairs, dislikes = Pairs.of([0, 1], [0, 1]), Pairs.of([1], [4])
    data = Interactions(2, 6, pairs, pairs, pairs, dislikes)
    config = TrainConfig(alignment=(), dislikes="prefer", dislike_share=1.0, dim=4, device="cpu")
    trainer = Trainer(config, data, None, None, torch.device("cpu"), fixed=True)
    drawn = trainer.sampler.negatives(torch.tensor([0, 1] * 500))
    assert set(drawn[1::2].tolist()) == {4}
    assert set(drawn[0::2].tolist()) == {1, 2, 3, 4, 5}


@pytest.mark.parametrize("how", ["optimal", "greedy"])
def test_centres_are_matched_as_on_the_cpu(how):
    torch.manual_seed(0)
    for size in (2, 3, 8):
        cost = torch.rand(size, size)
        assert torch.equal(clustering.match(cost, how, fixed=True), clustering.match(cost, how))
    equal = clustering.match(-torch.eye(3)[[1, 2, 0]], how, fixed=True)
    assert equal.tolist() == [1, 2, 0]


def test_kmeans_of_all_iterations_is_that_of_enough():
    torch.manual_seed(0)
    rows = torch.randn(300, 4)
    start = clustering.initial_centres(rows, 5, fixed=True)
    assert torch.equal(clustering.kmeans(rows, start, 40, fixed=True), clustering.kmeans(rows, start, 40))


def test_a_weighted_sample_is_distinct_and_follows_its_weights():
    torch.manual_seed(0)
    weights = torch.tensor([1.0, 2.0, 0.0, 5.0])
    drawn = [clustering.weighted_sample(weights, 2).tolist() for _ in range(4000)]
    assert all(first != second and 2 not in (first, second) for first, second in drawn)
    first = torch.bincount(torch.tensor([each[0] for each in drawn]), minlength=4) / 4000
    assert first.tolist() == pytest.approx([1 / 8, 2 / 8, 0, 5 / 8], abs=0.03)
    assert sorted({tuple(sorted(each)) for each in drawn}) == list(itertools.combinations([0, 1, 3], 2))
