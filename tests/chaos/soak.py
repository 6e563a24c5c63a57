"""An hour of work on the full local platform, with a server killed every minute: nothing is lost.

    python -m tests.chaos.soak --minutes 60

One thread trains the same small run again and again, one registers bundles, and one fetches the
champion, while another kills a server by SIGKILL each minute, by turns in a drawn order. At the end
every finished training must have the same bytes, every registered version its own bundle, and the
champion must be the best one.
"""

import argparse
import contextlib
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from infra.local import platform as local_platform
from infra.local.platform import Platform
from infra.local.servers.seaweedfs import BUCKET
from infra.local.servers.server import KEEPER, PlatformError, marked
from pipelines import tracking
from pipelines.config.load import load_config
from pipelines.config.reference import Kind, ModelReference
from pipelines.errors import UserError
from pipelines.models.bundle import load_bundle
from pipelines.models.load import CHAMPION, fetch
from pipelines.registry import register
from pipelines.registry.moves import Moves
from pipelines.runs.checkpoint import MODEL, Checkpoint
from pipelines.runs.names import run_checkpoints
from pipelines.triggers.job_server import JobServer
from tests.conftest import SMALL
from tests.support.bundles import make_bundle
from tests.support.full_platform import PATIENCE_S, full_platform, patient, until_succeeded

STEPS, MODEL_NAME = 120, "small"
#: How often a job may end before its time: at worst with each fault.
ATTEMPTS = 100
#: Seconds between two faults, two registrations and two fetches.
FAULT_S, REGISTER_S, FETCH_S = 60.0, 45.0, 10.0
#: Seconds that somebody may take to see that the keeper is gone, and to start it again.
OPERATOR_S = 20.0


@dataclass
class Soak:
    """Works on the platform, and keeps what happened so far.

    Attributes:
        trained: the sha256 of each finished training's weights, by its name.
        registered: the digest of each version's bundle.
        seen: the newest step that a training was seen to have.
    """

    full: Platform
    folder: Path
    over: threading.Event = field(default_factory=threading.Event)
    counts: Counter[str] = field(default_factory=Counter)
    trained: dict[str, str] = field(default_factory=dict)
    registered: dict[str, str] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def train(self) -> None:
        """Trains until the time is over; ends the last training in any case."""
        data = f"data=s3://{BUCKET}/soak/shards"
        self._job("soak-shard", f"jobs/shard.py source=sample {data}")
        while not self.over.is_set():
            name = f"soak-{len(self.trained)}"
            self._job(
                name,
                f"jobs/train.py stage=autoencoder {data} run.storage=s3://{BUCKET}/soak/runs "
                f"run.name={name} stages.autoencoder.train.steps={STEPS} train.checkpoint_every=20 "
                "mlflow.retry_seconds=300 stream.retry_seconds=300",
            )
            checkpoint = self._newest(name)
            self.trained[name] = checkpoint.files[MODEL].sha256
            if checkpoint.step != STEPS:
                self.failures.append(f"{name} ended at step {checkpoint.step}")

    def _newest(self, name: str) -> Checkpoint:
        config = load_config([f"run.storage=s3://{BUCKET}/soak/runs"])
        found = patient(run_checkpoints(config, f"{name}-autoencoder").newest)
        assert found is not None
        return found

    def _job(self, name: str, entrypoint: str) -> None:
        """Submits a job until it has succeeded, as somebody would who sees that it ended."""
        until_succeeded(
            JobServer(self.full.dashboard),
            entrypoint,
            self.counts,
            attempts=ATTEMPTS,
            meanwhile=lambda: self._note_progress(name),
        )

    def _note_progress(self, name: str) -> None:
        """Checks that no checkpoint that was there is gone without a newer one."""
        config = load_config([f"run.storage=s3://{BUCKET}/soak/runs"])
        try:
            steps = run_checkpoints(config, f"{name}-autoencoder").steps()
        except UserError:
            return
        newest = max(steps, default=0)
        if newest < self.seen.get(name, 0):
            self.failures.append(f"{name} fell from step {self.seen[name]} to {newest}")
        self.seen[name] = newest

    def register(self) -> None:
        """Registers bundles, each a little better than the one before."""
        number = 0
        while not self.over.wait(REGISTER_S if number else 0):
            folder = self.folder / f"bundle-{number}"
            # `fetch` reads these folders: it must see each whole, or not at all.
            unseen = folder.with_name(f"unseen-{number}")
            bundle = make_bundle(unseen, psnr=30 + number / 2)
            unseen.rename(folder)
            config = load_config([f"recipe={SMALL}", f"bundle={folder}", "mlflow.retry_seconds=60"])
            version = patient(lambda config=config: register.run(config))
            self.registered[version] = bundle.digest
            number += 1

    def fetch(self) -> None:
        """Fetches the champion, which must be one that was registered."""
        while not self.over.wait(FETCH_S):
            try:
                config = load_config(["mlflow.retry_seconds=5"])
                digest = load_bundle(fetch(champion(), config.mlflow)).digest
            except UserError:
                self.counts["fetches refused"] += 1
                continue
            self.counts["fetches"] += 1
            # The registration that made it champion may not have returned yet.
            known = {load_bundle(path).digest for path in self.folder.glob("bundle-*")}
            if digest not in known:
                self.failures.append(f"a client fetched {digest}, which nobody registered")

    def kill(self, generator: random.Random) -> None:
        """Kills a server each minute."""
        left: list[str] = []
        while not self.over.wait(FAULT_S):
            if not left:
                left = [*(server.name for server in self.full.servers()), KEEPER]
                generator.shuffle(left)
            name = left.pop()
            for found, process in marked(Path(self.full.home)):
                if found == name:
                    with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended by itself
                        process.kill()
            self.counts[f"killed {name}"] += 1
            print(f"{time.strftime('%H:%M:%S')} killed {name}", flush=True)
            if name == KEEPER and not self.over.wait(OPERATOR_S):
                self.start_again()

    def start_again(self) -> None:
        """Does what an operator does: `make up FULL=1`."""
        for attempt in range(3):
            try:
                local_platform.up(Path(self.full.home), full=True)
                return
            except PlatformError as error:
                if attempt == 2:
                    self.failures.append(f"the platform does not start again: {error}")

    def check(self) -> None:
        """Checks at the end that nothing is lost."""
        if not self.trained or not self.registered:
            self.failures.append("nothing was trained, or nothing registered")
            return
        if len(set(self.trained.values())) != 1:
            self.failures.append(f"trainings of equal settings differ: {self.trained}")
        config = load_config([])
        for version, digest in dict(self.registered).items():
            reference = ModelReference(Kind.REGISTRY, MODEL_NAME, version=version)
            if load_bundle(fetch(reference, config.mlflow)).digest != digest:
                self.failures.append(f"version {version} is another bundle than was registered")
        moves = Moves(tracking.connect(config.mlflow), MODEL_NAME)
        best = max(self.registered, key=int)
        if moves.champion() != best or moves.alias(CHAMPION) != best:
            self.failures.append(f"champion is {moves.champion()}, and {best} is the best")
        if [move.to for move in moves.all()] != sorted(self.registered, key=int):
            self.failures.append(f"the history is {moves.all()}")


def champion() -> ModelReference:
    return ModelReference(Kind.REGISTRY, MODEL_NAME, alias=CHAMPION)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=60.0, help="how long faults come")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the faults")
    parsed = parser.parse_args()
    with full_platform() as full:
        soak = Soak(full, Path(full.home) / "bundles")
        soak.folder.mkdir()
        run(soak, parsed.minutes, random.Random(parsed.seed))
        told = ", ".join(f"{count} {name}" for name, count in sorted(soak.counts.items()))
        print(f"{parsed.minutes:g} minutes: {told}.")
        print(f"{len(soak.trained)} trainings ended, {len(soak.registered)} versions registered.")
        if soak.failures:
            for failure in soak.failures:
                print(f"LOST: {failure}", file=sys.stderr)
            raise SystemExit(f"What the platform held is in {full.home}.")
    print("Nothing was lost.")


def run(soak: Soak, minutes: float, generator: random.Random) -> None:
    def guarded(work: Callable[[], None]) -> Callable[[], None]:
        def do() -> None:
            try:
                work()
            except BaseException as error:  # a thread that ends must end the soak as a failure
                soak.failures.append(f"{work.__name__}: {type(error).__name__}: {error}")

        return do

    def kill() -> None:
        soak.kill(generator)

    works = (soak.train, soak.register, soak.fetch)
    threads = [threading.Thread(target=guarded(work), name=work.__name__) for work in works]
    killer = threading.Thread(target=guarded(kill), name=kill.__name__)
    for thread in (*threads, killer):
        thread.start()
    time.sleep(60 * minutes)
    soak.over.set()
    killer.join()
    soak.start_again()
    for thread in threads:
        thread.join(PATIENCE_S)
        if thread.is_alive():
            soak.failures.append(f"{thread.name} does not end")
    guarded(soak.check)()


if __name__ == "__main__":
    main()
