"""The ways to the people: a webhook, a mail. Each delivers a notification once, or says why not."""

import base64
import os
import smtplib
import ssl
from dataclasses import dataclass, field
from email.message import EmailMessage
from http.client import HTTPException
from typing import Any, Protocol
from urllib.error import HTTPError, URLError
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from pipelines import __version__
from pipelines.config.addresses import check_place
from pipelines.config.keys import Place
from pipelines.config.schema import NotifyConfig
from pipelines.errors import UserError, listing, told
from pipelines.notify.notification import Notification
from pipelines.storage.typed import to_json

WEBHOOK, SMTP = "SRMILL_NOTIFY_WEBHOOK", "SRMILL_NOTIFY_SMTP"
#: The longest wait for one answer, seconds.
TIMEOUT_S = 10.0
_HERE = ("127.0.0.1", "::1", "localhost")
#: HTTP's codes below 500 that another attempt may cure.
_BUSY = (408, 425, 429)


class DeliveryError(Exception):
    """A notification did not arrive. The message says why, without secrets.

    again: whether another attempt may help.
    """

    def __init__(self, reason: object, *, again: bool) -> None:
        super().__init__(told(reason))
        self.again = again


class Channel(Protocol):
    """A way to people."""

    @property
    def name(self) -> str:
        """The way in words, without secrets."""

    def send(self, notification: Notification) -> None:
        """Delivers a notification; raises DeliveryError if it did not arrive."""


def choose_channels(settings: NotifyConfig) -> list[Channel]:
    """Returns the ways that the configuration and the environment name.

    Raises:
        UserError: an address in the environment has another form, or no server sends the mail.
    """
    found: list[Channel] = []
    if webhook := settings.webhook or _from_environment(WEBHOOK, Place.WEB):
        found.append(Webhook(webhook))
    if settings.mail:
        server = settings.smtp or _from_environment(SMTP, Place.SMTP)
        if not server:
            raise UserError(
                f"no server sends the mail of notify.mail: set notify.smtp=smtp://HOST or ${SMTP}."
            )
        found.append(Mail(settings.mail, server))
    return found


def people(settings: NotifyConfig) -> str:
    """Returns in words who is told; an empty text if nobody is.

    Raises:
        UserError: as `choose_channels`.
    """
    return listing((way.name for way in choose_channels(settings)), " and ")


def _from_environment(name: str, place: Place) -> str | None:
    value = os.environ.get(name) or None
    if value is not None:
        check_place(f"${name}", value, place)
    return value


class _NoRedirects(HTTPRedirectHandler):
    """Refuses to follow: a POST that is redirected becomes a GET, which tells nobody anything."""

    def redirect_request(self, *_: Any) -> None:
        return None


@dataclass(frozen=True)
class Webhook:
    """Posts notifications as JSON to an http(s) address, whose path may be a secret."""

    url: str = field(repr=False)

    @property
    def name(self) -> str:
        return f"the webhook at {_host(urlsplit(self.url))}"

    def send(self, notification: Notification) -> None:
        parts = urlsplit(self.url)
        headers = {"Content-Type": "application/json", "User-Agent": f"srmill/{__version__}"}
        if parts.username is not None:
            known = base64.b64encode(":".join(_login(parts)).encode()).decode()
            headers["Authorization"] = f"Basic {known}"
        plain = parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="").geturl()
        request = Request(plain, to_json(notification), headers, method="POST")
        try:
            with build_opener(_NoRedirects).open(request, timeout=TIMEOUT_S):
                pass
        except HTTPError as error:
            again = error.code >= 500 or error.code in _BUSY
            raise DeliveryError(f"it answers {error.code}", again=again) from None
        except (URLError, HTTPException, OSError) as error:
            raise DeliveryError(getattr(error, "reason", error), again=True) from None


@dataclass(frozen=True)
class Mail:
    """Mails notifications by SMTP; the connection is encrypted where the server offers that."""

    address: str
    server: str = field(repr=False)

    @property
    def name(self) -> str:
        return f"{self.address} by {_host(urlsplit(self.server))}"

    def send(self, notification: Notification) -> None:
        parts = urlsplit(self.server)
        try:
            with self._connect(parts) as smtp:
                if parts.username is not None:
                    smtp.login(*_login(parts))
                smtp.send_message(self._message(notification, parts))
        except smtplib.SMTPResponseException as error:
            reason = error.smtp_error
            text = reason.decode(errors="replace") if isinstance(reason, bytes) else reason
            again = 400 <= error.smtp_code < 500
            raise DeliveryError(f"it answers {error.smtp_code} {text}", again=again) from None
        except smtplib.SMTPRecipientsRefused as error:
            codes = [code for code, _ in error.recipients.values()]
            raise DeliveryError(
                f"it refuses the recipient ({codes[0]})", again=all(code < 500 for code in codes)
            ) from None
        except OSError as error:
            raise DeliveryError(error, again=True) from None

    def _connect(self, parts: SplitResult) -> smtplib.SMTP:
        assert parts.hostname is not None
        context = ssl.create_default_context()
        if parts.scheme == "smtps":
            return smtplib.SMTP_SSL(
                parts.hostname, parts.port or 465, timeout=TIMEOUT_S, context=context
            )
        port = parts.port or (25 if parts.username is None else 587)
        smtp = smtplib.SMTP(parts.hostname, port, timeout=TIMEOUT_S)
        try:
            smtp.ehlo()
            if smtp.has_extn("starttls"):
                smtp.starttls(context=context)
            elif parts.username is not None and parts.hostname not in _HERE:
                raise DeliveryError("it offers no encryption for the password", again=False)
        except BaseException:
            smtp.close()
            raise
        return smtp

    def _message(self, notification: Notification, parts: SplitResult) -> EmailMessage:
        message = EmailMessage()
        user = _login(parts)[0]
        message["From"] = user if "@" in user else self.address
        message["To"] = self.address
        message["Subject"] = f"SRMill: {notification.model} {notification.event}"
        lines = {
            "model": notification.model,
            "version": notification.model_version or "none",
            "run": notification.run,
            "host": notification.host,
            "time": notification.time,
        }
        told = "\n".join(f"{name}: {value}" for name, value in lines.items())
        message.set_content(f"{notification.text}\n\n{told}\n")
        return message


def _login(parts: SplitResult) -> tuple[str, str]:
    return unquote(parts.username or ""), unquote(parts.password or "")


def _host(parts: SplitResult) -> str:
    return parts.netloc.rpartition("@")[2]
