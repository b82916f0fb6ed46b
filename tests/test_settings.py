"""settings: what the environment may say, and what is said when it may not."""

from pathlib import Path

import pytest

from hitledger.errors import SettingsError
from hitledger.settings import Settings


def test_defaults_need_no_environment() -> None:
    """Nothing set gives the documented defaults."""
    settings = Settings.from_environment({"PATH": "/bin"})
    assert (settings.host, settings.port, settings.redis_url) == ("127.0.0.1", 5000, None)
    assert settings.own_url == "http://127.0.0.1:5000"


def test_an_unknown_name_stops_the_start_and_names_the_nearest() -> None:
    """A typing error in a name is no silent default."""
    with pytest.raises(SettingsError, match=r"HITLEDGER_PROT is no setting\. Did you mean HITLEDGER_PORT\?"):
        Settings.from_environment({"HITLEDGER_PROT": "1"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "0"), ("PORT", "65536"), ("PORT", "5000.0"), ("PORT", "9" * 30), ("WORKERS", "many"),
        ("REDIS_URL", "http://localhost"), ("REDIS_URL", "redis://"), ("REDIS_URL", "redis://h:port"),
        ("SELF_URL", "http://localhost/path"), ("SELF_URL", "ftp://localhost"), ("COUNT_UNMATCHED", "maybe"),
        ("JOURNAL_SYNC", "sometimes"), ("UNCOUNTED_PATHS", "livez"), ("HOST", "a b"), ("DATA_DIR", "a\0b"),
    ],
)  # fmt: skip
def test_a_bad_value_is_named_with_what_is_allowed(name: str, value: str) -> None:
    """Every kind of setting refuses what does not fit, in one line."""
    with pytest.raises(SettingsError, match=f"HITLEDGER_{name}=.* is not allowed. It takes ") as caught:
        Settings.from_environment({f"HITLEDGER_{name}": value})
    assert "\n" not in str(caught.value)


def test_secrets_stay_hidden() -> None:
    """A password is in neither the error nor the list of settings."""
    with pytest.raises(SettingsError) as caught:
        Settings.from_environment({"HITLEDGER_REDIS_URL": "http://user:sesame@host"})
    assert "sesame" not in str(caught.value)
    settings = Settings.from_environment({"HITLEDGER_REDIS_URL": "valkey://user:sesame@host:1/2"})
    assert settings.redis_url == "redis://user:sesame@host:1/2"
    shown = {row["name"]: row["value"] for row in settings.describe()}
    assert shown["HITLEDGER_REDIS_URL"] == "redis://user:***@host:1/2"


def test_values_are_read_by_type() -> None:
    """Numbers, flags, folders and lists come out as what they are; empty is unset."""
    settings = Settings.from_environment(
        {
            "HITLEDGER_PORT": "5055",
            "HITLEDGER_COUNT_UNMATCHED": "yes",
            "HITLEDGER_DATA_DIR": "/var/lib/hitledger",
            "HITLEDGER_UNCOUNTED_PATHS": "/livez, /static/*",
            "HITLEDGER_WORKERS": "",
        }
    )
    assert (settings.port, settings.count_unmatched) == (5055, True)
    assert settings.data_dir == Path("/var/lib/hitledger")
    assert settings.uncounted_paths == ("/livez", "/static/*")
    assert settings.workers == Settings().workers


@pytest.mark.parametrize(
    ("host", "url"), [("0.0.0.0", "http://127.0.0.1:5000"), ("::", "http://[::1]:5000"), ("::1", "http://[::1]:5000")]
)
def test_own_url_is_reachable(host: str, url: str) -> None:
    """A service that listens everywhere sends its test runs to the loopback address."""
    assert Settings(host=host).own_url == url
