"""Trainings whose workers, nodes and drivers die: each arrives at the weights and the history of
one that nobody disturbed."""

import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

from tests.support.chaos import ROWS, SAME, SETTINGS, STEPS, NewRun, Reference, tell
from tests.support.ray_nodes import Nodes
from tests.support.run import Run

pytestmark = pytest.mark.slow

#: Between the notice that a node will go and its end.
GRACE_S = 15


def test_a_worker_is_killed(nodes: Nodes, new_run: NewRun, reference: Reference) -> None:
    nodes.add(2)
    run = new_run()
    run.until_step(run.until_saved(200).step + 20)
    fault = time.time()
    nodes.workers()[0].kill()
    reference.check(run)
    tell("a training worker is killed (-9)", run.damage(fault), SAME)


def test_a_node_is_lost_and_a_spare_one_takes_its_place(
    nodes: Nodes, new_run: NewRun, reference: Reference
) -> None:
    nodes.add(3)
    run = new_run()
    run.until_step(run.until_saved(200).step + 20)
    fault = time.time()
    nodes.kill(nodes.node_of(nodes.workers()[0]))
    reference.check(run)
    tell("a node is lost, a spare one is there", run.damage(fault), SAME)


def test_a_node_is_lost_and_the_run_goes_on_with_fewer_workers(
    nodes: Nodes,
    reference: Reference,
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The loss of the stage does not depend on the number of workers."""
    nodes.add(2)
    elastic = (*SETTINGS, "train.workers=[1,2]", "train.zero_stage=1", "stage=joint")

    def new_run(name: str) -> Run:
        monkeypatch.setenv("SRMILL_HOME", str(tmp_path / name))
        # The stage before.
        shutil.copytree(reference.home, tmp_path / name)
        return Run(nodes.address, f"data={dataset}", *elastic)

    with new_run("whole") as run:
        assert run.wait() == 0, run.output
        whole, losses = run.result(), run.history()
    with new_run("broken") as run:
        kept = run.until_saved(200).step
        run.until_step(kept + 20)
        fault = time.time()
        nodes.kill(nodes.node_of(nodes.workers()[0]))
        assert run.wait() == 0, run.output
        broken, again = run.result(), run.history()
    assert (whole.state().world_size, broken.state().world_size) == (2, 1)
    assert [metric.step for metric in again] == list(range(1, STEPS + 1))
    expected, found = ([metric.value for metric in history] for history in (losses, again))
    assert found[:kept] == expected[:kept], "nothing had happened yet"
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    weights, others = whole.weights(), broken.weights()
    difference = max(float((weights[name] - others[name]).abs().max()) for name in weights)
    # docs/training.md: the losses differ by the order of summation alone.
    assert difference < 1e-5
    result = f"goes on with 1 worker; weights differ by {difference:.0e}"
    tell("a node is lost, none is spare", run.damage(fault), result)


def test_a_node_is_preempted(nodes: Nodes, new_run: NewRun, reference: Reference) -> None:
    nodes.add(3)
    run = new_run(f"train.checkpoint_every={STEPS}")
    run.until_step(50)
    worker, deadline = nodes.workers()[0], time.monotonic() + GRACE_S
    node = nodes.node_of(worker)
    nodes.drain(node, GRACE_S)
    run.until_said("a node will go: writing a checkpoint at step")
    told = int(run.output.partition("writing a checkpoint at step ")[2].partition(".")[0])
    saved = run.until_saved(told)
    assert worker.is_running()
    assert time.monotonic() < deadline
    fault = time.time()
    nodes.kill(node)
    reference.check(run)
    assert saved.step == told
    assert f"resuming at step {told} of" in run.output
    tell(f"a node goes, with a notice of {GRACE_S} s", run.damage(fault), SAME)


def test_the_driver_is_killed(nodes: Nodes, new_run: NewRun, reference: Reference) -> None:
    nodes.add(2)
    run = new_run()
    run.until_step(run.until_saved(200).step + 20)
    fault = time.time()
    run.kill()
    run.start()
    reference.check(run)
    tell("the driver is killed (-9), the same command again", run.damage(fault), SAME)


def test_sigterm_saves_the_work(nodes: Nodes, new_run: NewRun, reference: Reference) -> None:
    nodes.add(2)
    run = new_run("train.checkpoint_every=400")
    run.until_step(100)
    fault = time.time()
    run.process.send_signal(signal.SIGTERM)
    assert run.wait() == 128 + signal.SIGTERM
    saved = run.result().step
    assert run.output.splitlines()[-1] == (
        f"terminated: small-autoencoder is saved at step {saved} of {STEPS}: start the same "
        "command again to go on."
    )
    # Ray Train's helper that waits for its controller's end may print one of its own, when it is
    # told to stop while it stops by itself. It has no part in the work.
    ours = [line for line in run.output.splitlines() if "(PlacementGroupCleaner pid=" not in line]
    assert "Traceback" not in "\n".join(ours)
    assert run.last_step() == saved
    run.start()
    reference.check(run)
    assert f"resuming at step {saved} of" in run.output
    tell("SIGTERM to the driver, the same command again", run.damage(fault), SAME)


def test_workers_that_always_die_end_the_run(nodes: Nodes, new_run: NewRun) -> None:
    nodes.add(2)
    run = new_run("train.max_failures=2", f"train.checkpoint_every={STEPS}")
    faults: list[float] = []

    def ended() -> bool:
        return run.process.poll() is not None

    def another_attempt() -> bool:
        return run.output.count(" 0%|") > len(faults)

    while not ended():
        run.until(lambda: ended() or another_attempt(), "the next attempt", running=False)
        if not ended():
            faults.append(time.time())
            for worker in nodes.workers():
                worker.kill()
    assert run.wait() == 2
    assert len(faults) == 3, run.output
    at, last = run.lines[-1]
    assert last.startswith(
        "error: training of 'small-autoencoder' failed: it failed 3 times in a row without getting "
        "beyond the start (train.max_failures=2); the last cause: "
    )
    ROWS.append(f"| workers always die | - | - | exit 2 after 3, {at - faults[-1]:.0f} s later |")
