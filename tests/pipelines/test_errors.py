"""Messages for users hold no password of an address."""

import pytest

from pipelines.config.load import load_config, to_dict, to_yaml
from pipelines.config.wording import shown
from pipelines.errors import UserError, redacted, told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("http://joe:secret@host:5000/x is away", "http://***@host:5000/x is away"),
        ("'s3://KEY:SE/CRET@bucket'", "'s3://***@bucket'"),
        ("http://joe:se?c/r#et@host:5000/x is away", "http://***@host:5000/x is away"),
        ("http://host:5000/a@b and ?q=a@b", "http://host:5000/a@b and ?q=a@b"),
        ("http://[::1]:5000/a@b", "http://[::1]:5000/a@b"),
        ("sqlite:///work/a@b.db", "sqlite:///work/a@b.db"),
        ("s3://KEY:/SECRET@bucket/x", "s3://***@bucket/x"),
        ("s3://KEY:12/SECRET@bucket/x", "s3://***@bucket/x"),
        ("http://joe:/secret@host/x", "http://***@host/x"),
        ("s3://KEY:SECRET@bucket/a@b", "s3://***@bucket/a@b"),
        ("http://host/a@b and mail@host", "http://host/a@b and mail@host"),
        ("models:/name@champion", "models:/name@champion"),
        ("from https://token@a to https://b:c@d", "from https://***@a to https://***@d"),
    ],
)
def test_the_user_and_the_password_of_an_address_are_left_out(text: str, told: str) -> None:
    assert redacted(text) == told
    assert str(UserError(text)) == told


def test_a_message_is_one_line_whatever_it_repeats() -> None:
    assert str(UserError("there is no 'a\nb\x1b\ud800é'")) == r"there is no 'a\nb\x1b\ud800é'"


def test_what_a_message_cuts_short_has_no_password_either() -> None:
    address = f"http://joe:{'secret' * 20}@host/{'x' * 200}"
    for text in (shown(address), shown([address]), told(address)):
        assert "secret" not in text
        assert "http://***@host/x" in text


def test_a_configuration_is_printed_and_kept_without_passwords() -> None:
    config = load_config(["mlflow.uri=http://joe:secret@host:5000"])
    config.source = ["s3://joe:secret@bucket/photos"]
    assert config.mlflow.uri == "http://joe:secret@host:5000"
    for text in (to_yaml(config), str(to_dict(config))):
        assert "http://***@host:5000" in text
        assert "secret" not in text
