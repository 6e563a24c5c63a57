"""MLflow's client, made patient: it repeats what fails on a network, and says so."""

import logging
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from pipelines.config.addresses import SQLITE
from pipelines.errors import UserError
from pipelines.storage.retries import Retries, RetryPolicy

if TYPE_CHECKING:
    from mlflow import MlflowClient


class RefusedError(UserError):
    """MLflow refuses a request. Another attempt would not help.

    Args:
        code: MLflow's name of the error, such as RESOURCE_DOES_NOT_EXIST.
    """

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


#: Addresses of servers that have answered this process.
_ANSWERED: set[str] = set()
#: MLflow's errors that another attempt may cure.
_TRANSIENT = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "ABORTED")
#: How urllib3 tells the statuses by which a server, or the proxy before it, says that it is busy.
_BUSY = re.compile(r"too many (429|502|503|504) error responses")
#: What limits a request of MLflow's to one attempt of at most 30 s.
_ONE_ATTEMPT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": 0, "MLFLOW_HTTP_REQUEST_TIMEOUT": 30}
#: Says how a run ended. The work has ended too, and waits for nobody.
_ONCE = ("set_terminated",)


class PatientClient:
    """An MLflow client whose methods repeat what fails on the network, and say so."""

    def __init__(self, uri: str, policy: RetryPolicy) -> None:
        self._uri, self._policy = uri, policy
        self._client: MlflowClient | None = None

    def check(self) -> None:
        """Raises UserError if the server does not answer, or is none of MLflow's."""
        self._call("search_experiments", max_results=1)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        return partial(self._call, name)

    def _call(self, name: str, *arguments: Any, **options: Any) -> Any:
        retries = Retries(self._policy, f"reach MLflow at {self._uri}", self._is_known)
        while True:
            try:
                with single_attempts():
                    self._client = self._client or open_client(self._uri)
                    answer = getattr(self._client, name)(*arguments, **options)
                _ANSWERED.add(self._uri)
                return answer
            except Exception as error:  # MLflow, requests and sqlalchemy raise many kinds.
                if name in _ONCE or not self._is_transient(error):
                    raise self._refusal(error) from error
                self._wait(retries, error)

    def _wait(self, retries: Retries, error: Exception) -> None:
        """Waits until the next attempt is due; raises UserError if the budget is spent."""
        try:
            retries.failed(ConnectionError(_reason(error)), busy=_is_busy(error))
        except UserError:
            if self._is_known():
                raise
            raise UserError(
                f"the MLflow server at {self._uri} does not answer ({_reason(error)}): start "
                "it (`make up` starts a local one), or set mlflow.uri or MLFLOW_TRACKING_URI to "
                "one that runs."
            ) from error

    def _is_known(self) -> bool:
        return self._uri in _ANSWERED

    def _is_transient(self, error: Exception) -> bool:
        from mlflow.exceptions import MlflowException
        from requests.exceptions import RequestException

        if self._uri.startswith(SQLITE) and not self._is_known():
            return False
        if isinstance(error, MlflowException):
            return error.error_code in _TRANSIENT
        return isinstance(error, RequestException | ConnectionError | TimeoutError)

    def _refusal(self, error: Exception) -> UserError:
        from mlflow.exceptions import MlflowException

        code = error.error_code if isinstance(error, MlflowException) else ""
        if code in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
            return RefusedError(
                f"MLflow at {self._uri} refuses access ({_reason(error)}): set "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN.",
                code,
            )
        if code and self._is_known():
            return RefusedError(f"MLflow at {self._uri} failed: {_reason(error)}.", code)
        return UserError(
            f"{self._uri} does not work as MLflow's server or database ({_reason(error)}): correct "
            "mlflow.uri or MLFLOW_TRACKING_URI."
        )


def _is_busy(error: BaseException | None) -> bool:
    """Returns True if a server said that it is busy, or took the request and was silent."""
    from urllib3.exceptions import MaxRetryError, ReadTimeoutError, ResponseError

    while error is not None:
        if isinstance(error, MaxRetryError):
            reason = error.reason
            if isinstance(reason, ResponseError):
                return _BUSY.fullmatch(str(reason)) is not None
            return isinstance(reason, ReadTimeoutError)
        error = error.__cause__ or error.__context__
    return False


def _reason(error: Exception) -> str:
    """Returns the reason of an error in a few words, without the request that it repeats."""
    told = " ".join(str(error).split()) or type(error).__name__
    told = told.rpartition("Caused by ")[2]
    return told.rpartition(": ")[2].strip("'\"()") if "[Errno" in told else told[:200]


def open_client(uri: str) -> "MlflowClient":
    """Returns a client for a tracking server that need not answer yet. MLflow logs only warnings
    from then on."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    import mlflow

    # After the import, which sets levels of its own: a new database announces every migration.
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return mlflow.MlflowClient(uri)


class _SingleAttempts:
    """The settings by which MLflow's requests make one attempt, while any thread wants that.

    They are the values that MLflow takes where the environment says nothing. The environment itself
    stays: a thread that copies it while another one takes a variable away ends with KeyError.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._before: dict[str, Any] = {}

    def enter(self) -> None:
        from mlflow import environment_variables

        with self._lock:
            if not self._users:
                for name, value in _ONE_ATTEMPT.items():
                    variable = getattr(environment_variables, name)
                    self._before[name], variable.default = variable.default, value
            self._users += 1

    def leave(self) -> None:
        from mlflow import environment_variables

        with self._lock:
            self._users -= 1
            if not self._users:
                for name, value in self._before.items():
                    getattr(environment_variables, name).default = value


_SINGLE_ATTEMPTS = _SingleAttempts()


@contextmanager
def single_attempts() -> Iterator[None]:
    """Limits requests to MLflow inside the block to one attempt of at most 30 s.

    Settings of the environment win. MLflow's own retries would block the caller for minutes. The
    requests of other threads are limited too, as long as any thread is inside.
    """
    _SINGLE_ATTEMPTS.enter()
    try:
        yield
    finally:
        _SINGLE_ATTEMPTS.leave()
