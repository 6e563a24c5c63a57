from pipelines.training.supervisor import Supervisor


def fail(supervisor: Supervisor, step: int, cause: str = "a worker process died") -> None:
    assert supervisor.begin()
    supervisor.resumed(step)
    supervisor.failed(cause, hopeless=False)


def test_attempts_go_on_for_as_long_as_each_gets_further() -> None:
    supervisor = Supervisor(max_failures=1)
    for step in range(0, 100, 10):
        fail(supervisor, step)
    assert supervisor.begin()
    assert supervisor.why_failed() == ""


def test_attempts_that_get_nowhere_end_with_the_last_cause() -> None:
    supervisor = Supervisor(max_failures=2)
    for _ in range(3):
        fail(supervisor, 40, "RuntimeError: connection reset by peer")
    assert not supervisor.begin()
    assert "failed 3 times in a row" in supervisor.why_failed()
    assert "checkpoint of step 40 (train.max_failures=2)" in supervisor.why_failed()
    assert "RuntimeError: connection reset by peer" in supervisor.why_failed()


def test_attempts_that_die_before_they_know_their_step_are_counted_too() -> None:
    supervisor = Supervisor(max_failures=1)
    assert supervisor.begin()
    assert supervisor.begin()
    assert not supervisor.begin()
    assert "failed 2 times in a row" in supervisor.why_failed()


def test_what_the_user_has_to_change_is_not_tried_again() -> None:
    supervisor = Supervisor(max_failures=9)
    assert supervisor.begin()
    supervisor.failed("the shard is damaged: run jobs/shard.py.", hopeless=True)
    # The other ranks fail because of it, and say so later.
    supervisor.failed("RuntimeError: peer closed", hopeless=False)
    assert not supervisor.begin()
    assert supervisor.why_failed() == "the shard is damaged: run jobs/shard.py."
