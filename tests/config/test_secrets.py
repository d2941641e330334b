import base64
import copy
import hashlib
import io
import pickle
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from meshkit.config import (
    ConfigError,
    ProjectSecret,
    SealingKey,
    SharedConfig,
    Wrong,
    explain,
    parse_project_secrets,
    parse_sealing_keys,
    redact_url,
)
from meshkit.config.secrets import is_secret_type
from tests.config.samples import OTHER, SECRET, BrainConfig, Careless

texts = (
    st.text(st.characters(exclude_characters=":,", exclude_categories=("C", "Z")), min_size=32, max_size=100)
)  # fmt: skip
KEY = "kEy" * 14 + "A"
kids = st.from_regex(r"[A-Za-z0-9_-]{1,32}", fullmatch=True)


@given(st.dictionaries(kids, texts, min_size=1, max_size=16))
def test_what_is_written_is_read(secrets: dict[str, str]) -> None:
    text = ",".join(f"{kid}:{secret}" for kid, secret in secrets.items())
    assert parse_project_secrets(text) == tuple(ProjectSecret(*item) for item in secrets.items())


@given(texts)
def test_a_bare_secret_is_named_by_its_digest(secret: str) -> None:
    kid = hashlib.sha256(secret.encode()).hexdigest()[:8]
    assert parse_project_secrets(secret) == (ProjectSecret(kid, secret),)


@given(st.text(min_size=1))
def test_any_text_is_read_or_refused_without_being_quoted(text: str) -> None:
    said, secrets = "", tuple[ProjectSecret, ...]()
    try:
        secrets = parse_project_secrets(text)
    except Wrong as wrong:
        said = str(wrong)
    assert len(text) < 8 or text not in said
    assert all(len(each.secret.encode()) >= 32 for each in secrets)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("x" * 31, "the secret is 31 bytes, shorter than 32"),
        ("x" * 1025, "the secret is 1025 bytes, longer than 1024"),
        (f"a:{SECRET},b:short", "secret 2 of 2 is 5 bytes"),
        (f"{SECRET},{OTHER}", "secret 1 of 2 has no kid"),
        (f"a:{SECRET},", "secret 2 of 2 has no kid"),
        (f"a b:{SECRET}", "the kid of secret 1 of 1 is not a key id"),
        (f":{SECRET}", "the kid of secret 1 of 1 is not a key id"),
        (f"{'k' * 33}:{SECRET}", "the kid of secret 1 of 1 is not a key id"),
        (f"a:{SECRET}, b:{OTHER}", "the kid of secret 2 of 2 is not a key id"),
        (f"a:{SECRET}:x", "secret 1 of 1 has a ':' in it"),
        (f"a:{SECRET},a:{OTHER}", "a kid stands there twice"),
        (f" {SECRET}", "white space at an end"),
        (f"{SECRET}\x00", "characters that do not print"),
        ("\udcff" * 40, "is not UTF-8"),
        (",".join(f"k{n}:{SECRET}" for n in range(17)), "there are 17 secrets"),
    ],
)
def test_a_broken_secret_is_refused(text: str, what: str) -> None:
    with pytest.raises(Wrong) as caught:
        parse_project_secrets(text)
    assert what in caught.value.what
    assert caught.value.mend
    assert SECRET not in str(caught.value)


@given(st.dictionaries(kids, st.binary(min_size=32, max_size=32), min_size=1, max_size=16), st.booleans())
def test_sealing_keys_that_are_written_are_read(keys: dict[str, bytes], padded: bool) -> None:
    assume(len(set(keys.values())) == len(keys))
    spelt = {kid: base64.urlsafe_b64encode(key).decode() for kid, key in keys.items()}
    text = ",".join(f"{kid}:{key if padded else key.rstrip('=')}" for kid, key in spelt.items())
    assert parse_sealing_keys(text) == tuple(SealingKey(*item) for item in keys.items())


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (KEY, "key 1 of 1 has no kid"),
        ("true", "key 1 of 1 has no kid"),
        (f"a:{KEY},", "key 2 of 2 has no kid"),
        (f"a b:{KEY}", "the kid of key 1 of 1 is not a key id"),
        (f"a:{KEY[:-1]}", "key 1 of 1 is not 32 bytes in base64url"),
        (f"a:{KEY}A", "key 1 of 1 is not 32 bytes in base64url"),
        (f"a:{KEY}==", "key 1 of 1 is not 32 bytes in base64url"),
        (f"a:{KEY[:-1]}+", "key 1 of 1 is not 32 bytes in base64url"),
        (f"a:{KEY[:-1]}B", "key 1 of 1 has bits beyond its 32 bytes"),
        (f"a:{KEY}:x", "key 1 of 1 is not 32 bytes in base64url"),
        (f"a:{KEY}, b:{KEY}", "the kid of key 2 of 2 is not a key id"),
        (f"a:{KEY},a:{'B' * 42}A", "a kid stands there twice"),
        (f"a:{KEY},b:{KEY}=", "a key stands there twice"),
        (",".join(f"k{n}:{KEY}" for n in range(17)), "there are 17 keys"),
    ],
)
def test_broken_sealing_keys_are_refused(text: str, what: str) -> None:
    with pytest.raises(Wrong) as caught:
        parse_sealing_keys(text)
    assert what in caught.value.what
    assert caught.value.mend
    assert KEY[:-1] not in str(caught.value)


def test_length_counts_bytes_not_letters() -> None:
    assert parse_project_secrets("ü" * 16)[0].secret == "ü" * 16


def test_the_newest_comes_first() -> None:
    config = SharedConfig(project_secret=f"new:{SECRET},old:{OTHER}")  # type: ignore[arg-type]
    assert [each.kid for each in config.project_secrets] == ["new", "old"]


def test_secret_types_are_known() -> None:
    fields = {name: is_secret_type(info.annotation) for name, info in Careless.model_fields.items()}
    assert {name for name, secret in fields.items() if secret} == {
        "redis_url",
        "redis_secret_key",
        "project_secret",
        "careless_key",
        "careless_pin",
    }


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:canary@h/db", "postgresql://u:***@h/db"),
        ("postgresql://u:can/ary@canary@h/db", "postgresql://u:***@h/db"),
        ("redis://:canary@h:1/0", "redis://:***@h:1/0"),
        ("https://canary@h/1", "https://***@h/1"),
        ("redis+sentinel://u:canary@a:1,b:2/m/0", "redis+sentinel://u:***@a:1,b:2/m/0"),
        ("postgresql://h/db?user=u&password=canary&x=1", "postgresql://h/db?user=u&password=***&x=1"),
        ("https://h/?api_key=canary", "https://h/?api_key=***"),
        ("rediss://h?ssl_keyfile=/a/b.pem", "rediss://h?ssl_keyfile=/a/b.pem"),
        ("static://brain=a:1,b:2", "static://brain=a:1,b:2"),
        ("file:///a/b", "file:///a/b"),
        ("ada@example.com", "ada@example.com"),
    ],
)
def test_credentials_in_urls_are_hidden(url: str, shown: str) -> None:
    assert redact_url(url) == shown


def everything_shown(config: SharedConfig) -> str:
    return "\n".join(
        [
            repr(config),
            str(config),
            f"{config.project_secrets} {config.sealing_keys} {config.redis} {config.redis!r}",
            str(config.model_dump()),
            str(config.model_dump(mode="json")),
            config.model_dump_json(),
            str(explain(config)),
            repr(copy.copy(config)),
            str(config.model_copy()),
        ]
    )


def test_no_secret_is_ever_shown(folder: Path) -> None:
    canary, url, pin = "CANARY-A" * 5, "CANARY-B", "CANARY-C"
    sealing = "CANARY" * 7 + "A"
    (folder / "key").write_text("CANARY-D")
    environ = {
        "CU_PROJECT_SECRET": f"k1:{canary},k2:{canary}2",
        "BRAIN_DATABASE_URL": f"postgresql://u:{url}@h/db",
        "BRAIN_API_KEY_FILE": str(folder / "key"),
        "CARELESS_PIN": pin,
        "CARELESS_KEY": pin,
        "REDIS_URL": "redis://u:CANARY-E@h",
        "CU_REGISTRY_URL": "redis://u:CANARY-F@h",
        "REDIS_SECRET_KEY": f"a:{sealing}",
    }
    for config in (BrainConfig.load(environ), Careless.load(environ)):
        assert "CANARY" not in everything_shown(config)
        assert str(config.sealing_keys[0].key) not in everything_shown(config)
        assert config.project_secrets[0].secret == canary
        assert config.redis is not None
        assert (config.redis.password, config.effective_registry_url[-10:]) == ("CANARY-E", "CANARY-F@h")
        assert pickle.loads(pickle.dumps(config)).project_secrets == config.project_secrets


@pytest.mark.parametrize(
    "environ",
    [
        {"CU_PROJECT_SECRET": "CANARY"},
        {"CU_PROJECT_SECRET": "k1:" + "CANARY" * 9 + ",k1:" + "CANARY" * 9},
        {"CU_PROJECT_SECRET": "CANARY" * 9 + "\udcff"},
        {"CU_PROJECT_SECRET": "CANARY" * 9, "CU_WEIGHT": "x", "CU_ENV": "production"},
        {"CARELESS_KEY": "bad-CANARY"},
        {"CU_REGISTRY_URL": "redis://u:CANARY@h/x"},
        {"CU_REGISTRY_URL": "rediss://u:CAN/CANARY@h"},
        {"CU_REGISTRY_URL": "rediss://u:CANARY@h", "CU_ENV": "production"},
        {"CU_REGISTRY_URL": "redis://u:CANARY@h", "CU_WEIGHT": "x"},
        {"CU_REGISTRY_URL": "nonsense://u:CANARY@h"},
        {"CU_ZONE": "x://u:CANARY@h"},
        {"CU_PROJECT_SECRTE": "CANARY"},
        {"CARELESS_URL": "x://u:CANARY@h"},
        {"REDIS_URL": "redis://u:CANARY@h/x"},
        {"REDIS_URL": "redis://u:CANARY"},
        {"REDIS_URL": "redis://u:CAN/CANARY@h"},
        {"REDIS_URL": "redis://u:CANARY@h", "CU_ENV": "production"},
        {"REDIS_URL": "redis://u:CANARY%ff@h"},
        {"REDIS_SECRET_KEY": "k:CANARY"},
        {"REDIS_SECRET_KEY": "CANARY" * 7 + "A"},
    ],
)
def test_no_error_shows_a_secret(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as caught:
        Careless.load(environ)
    error = caught.value
    assert error.__context__ is None
    assert "CANARY" not in f"{error} {error!r} {error.problems} {error.args}"
    assert "CANARY" not in traced(error)


def test_no_error_of_construction_shows_a_secret() -> None:
    for field in ("project_secret", "careless_key"):
        with pytest.raises(ConfigError) as caught:
            construct(field)
        assert caught.value.__context__ is None
        assert "CANARY" not in traced(caught.value)
        assert len(caught.value.problems) == 2


def construct(field: str) -> None:
    values: dict[str, Any] = {field: "bad-CANARY", "weight": 0}
    Careless(**values)


def traced(error: BaseException) -> str:
    """The traceback with the local variables of all frames but the test's own."""
    frame = error.__traceback__
    while frame is not None and frame.tb_frame.f_code.co_filename == __file__:
        frame = frame.tb_next
    assert frame is not None
    trace = traceback.TracebackException(type(error), error, frame, capture_locals=True)
    return "".join(trace.format())


def test_printing_a_traceback_shows_no_secret(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        Careless.load({"CARELESS_KEY": "bad-CANARY"})
    except ConfigError:
        output = io.StringIO()
        traceback.print_exc(file=output)
        sys.excepthook(*sys.exc_info())
    assert "the key '***' is bad" in output.getvalue()
    assert "CANARY" not in output.getvalue().replace('"bad-CANARY"', "")
    assert "CANARY" not in capsys.readouterr().err.replace('"bad-CANARY"', "")
