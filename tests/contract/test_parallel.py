"""Training by several processes: real ones, which must give what one process gives and leave nothing behind."""

import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import distributed
from torch.utils.flop_counter import FlopCounterMode

from darec.common.column_split import UNSPLIT, ColumnSplit, Replicas
from darec.common.errors import TransientError, UserError
from darec.common.progress import Silent
from darec.training import DivergedError, Trainer, checkpoint, parallel, train, worker
from schemas.alignment import (
    DaRecConfig,
    DistillConfig,
    KARConfig,
    LinearTeacherConfig,
    RetrievedGraphConfig,
    RLMRecConConfig,
    RLMRecGenConfig,
)
from schemas.backbones import (
    AutoCFConfig,
    DCCFConfig,
    EASEConfig,
    GCCFConfig,
    LightGCNConfig,
    MFConfig,
    NGCFConfig,
    SGLConfig,
    SimGCLConfig,
)
from schemas.section import hashed
from schemas.training import SampledSoftmaxConfig, SoftmaxConfig, TextConfig, TrainConfig
from tests.checkerboard import checkerboard, losses_of, parity_text
from tests.processes import free_port, wait_for

QUICK = {"dim": 8, "batch_size": 128, "learning_rate": 0.02, "device": "cpu"}
PLAIN = {"alignment": (), **QUICK}
NETWORKS = DaRecConfig(cf_parts="network", text_parts="network", sample=24, centres=3, recluster_steps=5)
CONFIGS = {
    "bpr": TrainConfig(backbone=LightGCNConfig(edge_keep=0.8), clip_norm=0.05, **PLAIN),
    "softmax": TrainConfig(loss=SoftmaxConfig(), **PLAIN),
    "sampled softmax": TrainConfig(loss=SampledSoftmaxConfig(negatives=8), scoring="cosine", **PLAIN),
    "factorisation": TrainConfig(backbone=MFConfig(), scoring="cosine", **PLAIN),
    "DaRec": TrainConfig(alignment=(DaRecConfig(sample=24, centres=3, recluster_steps=5),), **QUICK),
    "DaRec, few samples": TrainConfig(alignment=(DaRecConfig(sample=24, recluster_steps=2, every=3),), **QUICK),
    "DaRec with networks": TrainConfig(alignment=(NETWORKS,), clip_norm=0.05, **QUICK),
    "linear teacher": TrainConfig(alignment=(LinearTeacherConfig(text=1, whiten=0),), **QUICK),
    "contrast": TrainConfig(
        alignment=(RLMRecConConfig(), DistillConfig(), DistillConfig(scores="cosine", users="certain")), **QUICK
    ),
    "retrieved graph": TrainConfig(alignment=(RetrievedGraphConfig(weight=1),), **QUICK),
    "dccf and a retrieved graph": TrainConfig(
        backbone=DCCFConfig(intents=8), alignment=(RetrievedGraphConfig(weight=1),), **QUICK
    ),
    "masks": TrainConfig(alignment=(RLMRecGenConfig(),), text=TextConfig(use="add", width=8), **QUICK),
    "ngcf": TrainConfig(backbone=NGCFConfig(), clip_norm=0.05, **PLAIN),
    "ngcf with DaRec": TrainConfig(backbone=NGCFConfig(layers=2), alignment=(NETWORKS,), **QUICK),
    "gccf": TrainConfig(backbone=GCCFConfig(edge_keep=0.8), loss=SoftmaxConfig(), **PLAIN),
    "sgl": TrainConfig(backbone=SGLConfig(), text=TextConfig(use="add", width=8), **PLAIN),
    "simgcl": TrainConfig(backbone=SimGCLConfig(negatives="batch"), scoring="cosine", **PLAIN),
    "dccf": TrainConfig(backbone=DCCFConfig(intents=8), **PLAIN),
    "autocf": TrainConfig(backbone=AutoCFConfig(seeds=8, mask_steps=3), **PLAIN),
    "experts": TrainConfig(alignment=(KARConfig(),), text=TextConfig(use="start"), **QUICK),
}
RESUMED = TrainConfig(
    backbone=LightGCNConfig(edge_keep=0.8),
    alignment=(DaRecConfig(sample=16, centres=3, recluster_steps=5, every=3),),
    schedule="cosine",
    epochs=9,
    eval_every=2,
    patience=9,
    checkpoint_every=3,
    processes=2,
    **QUICK,
)
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return checkerboard(tmp_path_factory.mktemp("checkerboard"))


@pytest.fixture(scope="module")
def straight(data):
    """An uninterrupted run of two processes, and what it told."""
    told = []
    return train(RESUMED, data, parity_text(data), listener=lambda epoch, values: told.append((epoch, values))), told


def begun(config, data, split=UNSPLIT):
    """A trainer after two epochs, and a trace: the losses of all steps and what validation found."""
    torch.manual_seed(config.seed)
    trainer = Trainer(config, data, parity_text(data), None, torch.device("cpu"), split)
    trainer.last_epoch = 2
    trainer.fit(None)
    return trainer, torch.tensor(trainer.history.table()["value"].to_list(), dtype=torch.float64)


def held(trainer):
    """Bytes of parameters, gradients and the optimiser's state."""
    tensors = list(trainer.model.parameters())
    tensors += [each.grad for each in trainer.model.parameters() if each.grad is not None]
    tensors += [value for state in trainer.optimizer.state.values() for value in state.values() if value.dim()]
    return sum(each.nbytes for each in tensors)


def worked(trainer):
    """Multiplications and additions of an epoch's matrix products and propagations."""

    def propagation(nodes, columns, *_, **__):
        return 2 * columns[0] * nodes[1]

    names = ("_embedding_bag", "_embedding_bag_forward_only")
    counter = FlopCounterMode(
        custom_mapping={getattr(torch.ops.aten, name): propagation for name in names}, display=False
    )
    with counter:
        trainer.run_epoch()
    return counter.get_total_flops()


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """What two processes that share columns come to, with every configuration."""
    folder = tmp_path_factory.mktemp("both")
    command = [sys.executable, __file__, str(folder)]
    workers = [subprocess.Popen([*command, str(rank)], env=ENVIRONMENT) for rank in range(2)]
    assert [worker.wait(300) for worker in workers] == [0, 0]
    return [load_file(folder / f"{rank}.safetensors") for rank in range(2)]


@pytest.mark.parametrize("name", CONFIGS)
def test_two_processes_give_the_loss_trace_of_one(name, both, data):
    _, trace = begun(CONFIGS[name], data)
    for found in both:
        # of a loss of about 1; some of DaRec's terms are small differences of large sums
        torch.testing.assert_close(found[name], trace, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["bpr", "factorisation"])
def test_each_process_holds_half_of_the_memory_of_one(name, both, data):
    trainer, _ = begun(CONFIGS[name], data)
    assert held(trainer) == 4 * data.n_nodes * 8 * 4
    assert [int(found[f"{name}/bytes"]) for found in both] == [held(trainer) / 2] * 2


@pytest.mark.parametrize("name", ["gccf", "softmax"])
def test_each_process_does_half_of_the_work_of_one(name, both, data):
    trainer, _ = begun(CONFIGS[name], data)
    for found in both:
        assert 0.4 < int(found[f"{name}/work"]) / worked(trainer) <= 0.6


def test_the_result_is_that_of_one_process(straight, data):
    trained, told = straight
    one = train(RESUMED.model_copy(update={"processes": 1}), data, parity_text(data))
    assert losses_of(trained) == pytest.approx(losses_of(one), rel=1e-5)
    torch.testing.assert_close(trained.final.nodes, one.final.nodes, rtol=1e-4, atol=1e-6)
    assert {name: value.shape for name, value in trained.state.items()} == {
        name: value.shape for name, value in one.state.items()
    }
    assert (trained.epochs, trained.best_epoch, trained.batch_size) == (one.epochs, one.best_epoch, one.batch_size)
    assert trained.history.drop("value").equals(one.history.drop("value"))
    assert [epoch for epoch, _ in told] == [2, 4, 6, 8, 9]
    assert told[-1][1].keys() == one.validation.keys()


def test_a_killed_process_ends_the_others_and_the_run_goes_on_from_its_checkpoint(straight, data, tmp_path):
    config, path = RESUMED.model_copy(update={"checkpoint_every": 1}), tmp_path / "checkpoint.safetensors"
    me = psutil.Process()
    before = me.children(recursive=True)

    def kill(epoch, _):
        if epoch == 2:
            workers = [each for each in me.children() if each not in before]
            assert len(workers) == 2
            workers[-1].kill()

    with pytest.raises(TransientError, match=r"process 1 of 2 was ended by SIGKILL.*run again"):
        train(config, data, parity_text(data), resume=path, listener=kill)
    assert me.children(recursive=True) == before

    alone = train(RESUMED.model_copy(update={"processes": 1, "checkpoint_every": 100}), data, parity_text(data))
    epochs, saved = [], checkpoint.load(path)["epoch"]
    copied = tmp_path / "copy"
    copied.mkdir()
    for part in tmp_path.glob("checkpoint*.safetensors"):
        (copied / part.name).write_bytes(part.read_bytes())
    by_one = train(
        RESUMED.model_copy(update={"processes": 1}),
        data,
        parity_text(data),
        resume=copied / path.name,
        listener=lambda epoch, _: epochs.append(epoch),
    )
    assert 1 <= saved < 9
    assert epochs == [epoch for epoch, _ in straight[1] if epoch > saved]
    torch.testing.assert_close(by_one.final.nodes, alone.final.nodes, rtol=1e-4, atol=1e-6)

    resumed = train(config, data, parity_text(data), resume=path)
    assert torch.equal(resumed.final.nodes, straight[0].final.nodes)
    assert resumed.history.equals(straight[0].history)


def test_a_backbone_that_mixes_columns_is_begun_by_two_processes_and_ended_by_one(data, tmp_path):
    config = TrainConfig(backbone=NGCFConfig(), epochs=4, eval_every=1, patience=9, checkpoint_every=2, **PLAIN)
    path = tmp_path / "checkpoint.safetensors"
    two = config.model_copy(update={"processes": 2})
    half = train(two, data, last_epoch=2, resume=path)
    assert [part.name for part in tmp_path.glob("*.safetensors")] == [path.name], "a checkpoint of one file"
    epochs = []
    resumed = train(config, data, resume=path, listener=lambda epoch, _: epochs.append(epoch))
    straight = train(config, data)
    assert epochs == [3, 4]
    assert half.state.keys() == straight.state.keys()
    assert losses_of(resumed)[:2] == losses_of(half)
    assert losses_of(resumed) == pytest.approx(losses_of(straight), rel=1e-5)
    torch.testing.assert_close(resumed.final.nodes, straight.final.nodes, rtol=1e-4, atol=1e-5)


def test_no_process_outlives_its_parent(tmp_path):
    parent = subprocess.Popen([sys.executable, __file__, str(tmp_path), "parent"], env=ENVIRONMENT)
    me = psutil.Process(parent.pid)
    assert wait_for(lambda: len(me.children()) == 2)
    workers = me.children()
    assert wait_for(lambda: list(tmp_path.glob("checkpoint.part-1-*")))
    parent.kill()
    parent.wait()
    assert wait_for(lambda: all(not each.is_running() or each.status() == psutil.STATUS_ZOMBIE for each in workers))


@pytest.mark.slow
def test_torchrun_on_two_machines_trains_what_waits_for_it(straight, data, tmp_path):
    """Two agents with one process each, as two machines with one store have them."""
    path = tmp_path / "checkpoint.safetensors"
    results = []

    def waiting():
        results.append(train(RESUMED.model_copy(update={"launcher": "torchrun"}), data, parity_text(data), resume=path))

    thread = threading.Thread(target=waiting)
    thread.start()
    assert wait_for((path.with_suffix("") / parallel.JOB).exists)
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{free_port()}", "--local-addr", "127.0.0.1"]
    command += ["-m", "darec.training.worker", str(path.with_suffix(""))]
    agents = [subprocess.Popen(command, env=ENVIRONMENT | {"GLOO_SOCKET_IFNAME": "lo"}) for _ in range(2)]
    assert [agent.wait(300) for agent in agents] == [0, 0]
    thread.join(180)
    assert torch.equal(results[0].final.nodes, straight[0].final.nodes)


def test_an_error_of_a_process_is_that_of_the_run(data, monkeypatch):
    """The process is this one, and alone."""

    @contextmanager
    def inside(config, folder):
        for name, value in {"RANK": "0", "WORLD_SIZE": "1"}.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit):
            worker.work(folder, folder / "meeting")
        yield []

    monkeypatch.setattr(parallel, "_started", inside)
    config = TrainConfig(epochs=3, **(PLAIN | {"learning_rate": 1e30}))
    with pytest.raises(DivergedError, match="training diverged at epoch 1"):
        parallel.train(config, data, None, None, None, None, None, Silent(), None)


def test_processes_are_no_part_of_the_key_and_what_cannot_be_shared_is_refused(data, monkeypatch):
    assert hashed(RESUMED) == hashed(RESUMED.model_copy(update={"processes": 1}))
    with pytest.raises(ValidationError, match="processes 2: ease has a closed form and is not trained"):
        TrainConfig(backbone=EASEConfig(), processes=2)
    with pytest.raises(ValidationError, match="processes 3 must divide dim 32"):
        TrainConfig(processes=3)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match=r"2 processes need 2 GPUs, and there are 1 \[train.processes\]"):
        train(TrainConfig(processes=2, **(PLAIN | {"device": "cuda"})), data)


def _share(folder: Path, rank: int) -> None:
    """One of the two processes of `both`."""
    distributed.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    data = checkerboard(folder / f"data-{rank}")
    found = {}
    for name, config in CONFIGS.items():
        split = ColumnSplit(rank, 2) if config.divides_columns else Replicas(rank, 2)
        trainer, found[name] = begun(config, data, split)
        found[f"{name}/bytes"] = torch.tensor(held(trainer))
        if name in ("gccf", "softmax"):
            found[f"{name}/work"] = torch.tensor(worked(trainer))
    save_file(found, folder / f"{rank}.safetensors")


if __name__ == "__main__":
    torch.set_num_threads(1)
    place = Path(sys.argv[1])
    if sys.argv[2] == "parent":
        forever = RESUMED.model_copy(update={"epochs": 100_000, "patience": 100_000})
        board = checkerboard(place / "data")
        train(forever, board, parity_text(board), resume=place / "checkpoint.safetensors")
    else:
        _share(place, int(sys.argv[2]))
