"""Notifications to a real web server and a real mail server."""

import base64
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.config.load import load_config, to_dict, to_yaml
from pipelines.config.schema import Config
from pipelines.errors import UserError
from pipelines.notify import Event, choose_channels, deliver, deliver_once, make_notification
from pipelines.notify.channels import SMTP, WEBHOOK
from pipelines.notify.send import PAUSES_S
from tests.conftest import SMALL
from tests.support.clock import TurnedClock
from tests.support.receivers import MailServer, WebhookServer, make_certificate

Output = pytest.CaptureFixture[str]


def configured(*settings: str) -> Config:
    return load_config([f"recipe={SMALL}", "run.name=monday", *settings])


def tell(*settings: str, reason: str = "better by psnr_y", clock: TurnedClock | None = None) -> int:
    """Tells of a promotion; returns the number of channels that took it."""
    config = configured(*settings)
    news = make_notification(config, Event.PROMOTED, reason, "3")
    return len(deliver(news, choose_channels(config.notify), clock or TurnedClock()))


def test_a_webhook_gets_one_document(webhook: WebhookServer, capsys: Output) -> None:
    assert tell(f"notify.webhook={webhook.url}/services/T0/secret?a=b") == 1
    [(path, headers, document)] = webhook.got
    assert path == "/services/T0/secret?a=b"
    assert headers["Content-Type"] == "application/json"
    assert "Authorization" not in headers
    told = {key: document[key] for key in ("version", "event", "model", "model_version", "run")}
    assert told == {
        "version": 1, "event": "promoted", "model": "small", "model_version": "3", "run": "monday",
    }  # fmt: skip
    assert document["text"] == "small version 3 is the champion: better by psnr_y"
    said = capsys.readouterr()
    assert said.out == f"Told the webhook at {webhook.host}: promoted.\n"
    assert "secret" not in said.out + said.err


def test_user_and_password_of_an_address_become_a_header(
    webhook: WebhookServer, capsys: Output
) -> None:
    webhook.statuses = [403]
    assert tell(f"notify.webhook=http://joe:se%3Acret@{webhook.host}/x") == 0
    [(_, headers, _)] = webhook.got
    known = base64.b64encode(b"joe:se:cret").decode()
    assert headers["Authorization"] == f"Basic {known}"
    assert headers["Host"] == webhook.host
    assert capsys.readouterr().err == (
        f"note: could not tell the webhook at {webhook.host}: promoted (it answers 403).\n"
    )


def test_a_busy_webhook_is_tried_again(webhook: WebhookServer, capsys: Output) -> None:
    webhook.statuses, clock = [503, 429], TurnedClock()
    assert tell(f"notify.webhook={webhook.url}", clock=clock) == 1
    assert (len(webhook.got), clock.now()) == (3, sum(PAUSES_S))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("statuses", "requests", "reason"),
    [([500] * 9, 3, "it answers 500"), ([404], 1, "it answers 404"), ([302], 1, "answers 302")],
)
def test_a_webhook_that_refuses_is_one_line(
    webhook: WebhookServer, capsys: Output, statuses: list[int], requests: int, reason: str
) -> None:
    """A redirection too: the POST would become a GET, and nobody would be told."""
    webhook.statuses = statuses
    assert tell(f"notify.webhook={webhook.url}/secret") == 0
    assert len(webhook.got) == requests
    error = capsys.readouterr().err
    assert reason in error
    assert "secret" not in error
    assert error.count("\n") == 1


def test_a_server_that_is_away_is_one_line(capsys: Output, mail_server: MailServer) -> None:
    mail_server.close()
    places = ["notify.webhook=http://joe:secret@127.0.0.1:9/secret", "notify.mail=me@example.org"]
    assert tell(*places, f"notify.smtp=smtp://joe:secret@{mail_server.host}") == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(": promoted")[0] for line in lines] == [
        "note: could not tell the webhook at 127.0.0.1:9",
        f"note: could not tell me@example.org by {mail_server.host}",
    ]
    assert all("Connection refused" in line for line in lines)
    assert not any("secret" in line for line in lines)


def test_a_mail_says_it_all(mail_server: MailServer, capsys: Output) -> None:
    settings = ["notify.mail=me@example.org", f"notify.smtp=smtp://{mail_server.host}"]
    assert tell(*settings, reason="größer um 0.3 dB") == 1
    [(user, encrypted, mail)] = mail_server.mails
    assert (user, encrypted) == (None, False)
    assert (mail["From"], mail["To"]) == ("me@example.org", "me@example.org")
    assert mail["Subject"] == "SRMill: small promoted"
    text = mail.get_content().replace("\r\n", "\n")
    assert text.startswith("small version 3 is the champion: größer um 0.3 dB\n\n")
    assert "run: monday\n" in text
    assert f"Told me@example.org by {mail_server.host}: promoted." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("verb", "answers", "taken", "line"),
    [
        ("RCPT", ["550 who is that"], 0, "it refuses the recipient (550)"),
        ("RCPT", ["450 later"], 1, ""),
        ("MAIL", ["451 busy"] * 9, 0, "it answers 451 busy"),
        ("AUTH", ["535 wrong"], 0, "it answers 535 wrong"),
    ],
)
def test_what_a_mail_server_refuses(
    mail_server: MailServer, capsys: Output, verb: str, answers: list[str], taken: int, line: str
) -> None:
    mail_server.answers = {verb: answers}
    smtp = f"notify.smtp=smtp://joe:secret@{mail_server.host}"
    assert tell("notify.mail=me@example.org", smtp) == taken
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == 1 - taken
    assert "secret" not in error


@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
def test_a_password_goes_over_an_encrypted_line(
    scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    certificate, context = make_certificate(tmp_path)
    server = MailServer(context, implicit=scheme == "smtps")
    smtp = f"notify.smtp={scheme}://joe%40example.org:pass@{server.host}"
    try:
        # Nobody vouches for the certificate.
        assert tell("notify.mail=me@example.org", smtp) == 0
        assert "CERTIFICATE_VERIFY_FAILED" in capsys.readouterr().err
        assert server.mails == []
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert tell("notify.mail=me@example.org", smtp) == 1
    finally:
        server.close()
    [(user, encrypted, mail)] = server.mails
    assert encrypted
    assert base64.b64decode(user or "") == b"\0joe@example.org\0pass"
    assert (mail["From"], mail["To"]) == ("joe@example.org", "me@example.org")


def test_no_password_goes_over_a_plain_line_to_another_machine(
    mail_server: MailServer, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    settings = ["notify.mail=me@example.org", f"notify.smtp=smtp://joe:pass@{mail_server.host}"]
    assert tell(*settings) == 1  # this machine
    monkeypatch.setattr("pipelines.notify.channels._HERE", ())
    assert tell(*settings) == 0
    assert "(it offers no encryption for the password)" in capsys.readouterr().err
    assert len(mail_server.mails) == 1


def test_addresses_come_from_the_environment_too(
    webhook: WebhookServer, mail_server: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(WEBHOOK, webhook.url)
    monkeypatch.setenv(SMTP, f"smtp://{mail_server.host}")
    assert tell() == 1  # a server alone mails nobody
    assert tell("notify.mail=me@example.org") == 2
    assert (len(webhook.got), len(mail_server.mails)) == (2, 1)
    monkeypatch.setenv(WEBHOOK, "joe:secret@chat")
    with pytest.raises(UserError, match=r"\$SRMILL_NOTIFY_WEBHOOK is not of the form") as error:
        tell()
    assert "secret" not in str(error.value)


def test_nobody_is_told_where_nobody_is_named(capsys: Output) -> None:
    assert tell() == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("notify.webhook=chat.example.org", r"notify\.webhook is not of the form http"),
        ("notify.webhook=s3://bucket", r"notify\.webhook is not of the form http"),
        ("notify.mail=me", r"notify\.mail is not of the form NAME@HOST"),
        ('notify.mail="a@b.c\\nBcc: d@e.f"', r"notify\.mail is not of the form NAME@HOST"),
        ("notify.smtp=joe:secret@host", r"notify\.smtp is not of the form smtp://"),
        ("notify.stale_after=30", r"notify\.stale_after is '30': write a number of days or hours"),
        ("notify.stale_after=0d", "such as 30d or 36h"),
        ("notify.stale_after=9999d", "at most three years"),
    ],
)
def test_an_address_of_another_form_is_refused(setting: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        configured(setting)
    assert "secret" not in str(error.value)


def test_mail_needs_a_server() -> None:
    with pytest.raises(UserError, match=r"set notify\.smtp=smtp://HOST or \$SRMILL_NOTIFY_SMTP"):
        choose_channels(configured("notify.mail=me@example.org").notify)


def test_no_document_says_who_is_told() -> None:
    config = configured("notify.webhook=http://chat/secret")
    for text in (to_yaml(config), str(to_dict(config)), str(config)):
        assert "secret" not in text


@pytest.fixture
def memory() -> list[str]:
    """The news that was told, newest last."""
    return []


@pytest.fixture
def once(
    webhook: WebhookServer, mail_server: MailServer, memory: list[str]
) -> Callable[[str], None]:
    """Tells of an event, unless all know it."""
    settings = ["notify.mail=me@example.org", f"notify.smtp=smtp://{mail_server.host}"]
    config = configured(f"notify.webhook={webhook.url}", *settings)
    news = make_notification(config, Event.REFUSED, "worse", "3")

    def once(what: str) -> None:
        last = memory[-1] if memory else None
        deliver_once(news, what, choose_channels(config.notify), last, memory.append, TurnedClock())

    return once


def test_news_are_told_once_and_those_that_failed_again(
    once: Callable[[str], None], webhook: WebhookServer, mail_server: MailServer, capsys: Output
) -> None:
    webhook.statuses = [400]
    once("3 refused")
    assert (len(webhook.got), len(mail_server.mails)) == (1, 1)
    once("3 refused")  # the webhook alone
    once("3 refused")
    assert (len(webhook.got), len(mail_server.mails)) == (2, 1)
    once("4 refused")
    assert (len(webhook.got), len(mail_server.mails)) == (3, 2)
    assert capsys.readouterr().err.count("could not tell") == 1


def test_a_memory_that_is_lost_tells_again(
    once: Callable[[str], None], webhook: WebhookServer, memory: list[str], capsys: Output
) -> None:
    once("3 refused")
    memory[-1] = "{"
    once("3 refused")
    assert "note: what was told last is damaged" in capsys.readouterr().err
    once("3 refused")
    assert len(webhook.got) == 2
