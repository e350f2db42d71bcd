"""The real peers, where they are installed, do the work that is timed."""

from dataclasses import replace
from pathlib import Path

import pytest
from benching import ARTICLE, BY_NAME, DIGITS, known_timings, quickly, rows

from fastmlp.bench import contest, processes, run, training
from fastmlp.bench.peers import PEERS
from fastmlp.bench.peers import load as load_peers
from fastmlp.bench.training import Trial

# PyTorch's compiler itself uses what PyTorch calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")

SMALL = (
    replace(DIGITS, samples=300, study=0, shuffle=False),
    replace(BY_NAME["full-batch"], samples=100, batch_size=100),
    replace(ARTICLE, epochs=2),
)


@pytest.fixture(scope="module", params=list(PEERS))
def peer(request):
    for package in PEERS[request.param].cure.replace("scikit-learn", "sklearn").split():
        pytest.importorskip(package)
    (made,) = load_peers([request.param], 2)
    assert made.version
    return made


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("workload", SMALL, ids=lambda workload: workload.name)
def test_a_peer_trains_the_same_network(monkeypatch, peer, workload, dtype):
    monkeypatch.setattr(contest, "interleave", known_timings)
    entries = training.peer_sides(Trial(workload, workload.make(workload).cast(dtype), dtype), quickly(peers=(peer,)))
    assert len(entries) == (peer.trains and (dtype == "float32" or not peer.bfloat16))
    for entry in entries:
        assert entry.agreement["agree"], entry.agreement
        entry.call()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_peer_does_the_work_of_the_other_suites(monkeypatch, peer, dtype):
    monkeypatch.setattr(contest, "interleave", known_timings)
    for name in ("gradient", "deep-b1", "128x784x256", "128x784x256 dx", "128x784x256 dw"):
        (made,) = rows(name, dtype=dtype, peers=(peer,))
        assert run.right(made), made


@pytest.mark.filterwarnings("ignore:dtype 'bfloat16' is emulated:RuntimeWarning")
def test_pytorch_does_the_work_in_bfloat16(monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setattr(contest, "interleave", known_timings)
    (peer,) = load_peers(["torch-bf16"], 2)
    for workload in ("full-batch", "deep-b1", "128x784x256 dw"):
        (made,) = rows(workload, dtype="bfloat16", peers=(peer,))
        assert run.right(made), made


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system tells no peak of memory")
def test_a_peer_runs_in_a_process_of_its_own(peer, tmp_path):
    if peer.trains:
        start, build = processes._parts(SMALL[1], quickly(), peer.name, True)
        assert processes._run(processes._WHOLE.format(start=start, build=build), str(tmp_path)) == ""
        assert int(processes._run(processes._PEAK.format(start=start, build=build, steps=2), str(tmp_path))) > 0


def test_scikit_learn_makes_every_epoch_that_is_counted():
    """Also those after many in which the loss got no better."""
    pytest.importorskip("sklearn")
    (made,) = load_peers(["sklearn"], 2)
    workload = replace(ARTICLE, learning_rate=1e-30)
    data = workload.make(workload).cast("float32")
    net = training.new_network(workload, "numpy", "float32")
    trainer = made.trainers(workload, net.weights, net.biases, data)["fit"]()
    for _ in range(3):
        trainer.fit(20)
        assert trainer.estimator.n_iter_ == 20
