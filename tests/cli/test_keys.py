"""`meshkit keys`: the file of a project's secrets, made, rotated and retired."""

import json
import stat
from pathlib import Path

import pytest

from meshkit.cli.output import Failure
from meshkit.cli.secretfile import SecretFile
from meshkit.config import parse_project_secrets
from tests.cli.conftest import Shell


def test_a_secret_is_made_rotated_to_and_the_old_one_retired(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    secrets = SecretFile(file)
    assert secrets.add("a") == "a"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    made = secrets.add("")
    assert secrets.kids() == ["a", made]
    before = {each.kid: each.secret for each in parse_project_secrets(file.read_text().strip())}
    secrets.promote()
    assert secrets.kids() == [made, "a"]
    after = {each.kid: each.secret for each in parse_project_secrets(file.read_text().strip())}
    assert after == before
    secrets.remove("a")
    assert secrets.kids() == [made]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["secret"]


def test_what_would_lose_calls_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    secrets = SecretFile(file)
    with pytest.raises(Failure, match="cannot be read"):
        secrets.promote()
    secrets.add("a")
    text = file.read_text()
    for refused, said in (
        (lambda: secrets.promote(), "nothing to rotate to"),
        (lambda: secrets.remove("a"), "a signs: have another sign first"),
        (lambda: secrets.remove("b"), "has no secret b: it has a"),
        (lambda: secrets.add("a"), "has a secret a already"),
        (lambda: secrets.add("a b"), "is no kid"),
    ):
        with pytest.raises(Failure, match=said):
            refused()
    (tmp_path / ".secret.new").touch()
    with pytest.raises(Failure, match="somebody else changes"):
        secrets.add("b")
    assert file.read_text() == text
    file.write_text("what is no secret")
    with pytest.raises(Failure, match="the secret cannot be used") as told:
        secrets.kids()
    assert "what is no secret" not in str(told.value)


def test_the_verbs_print_no_secret(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    said = []
    for words in (("new", str(file), "--kid", "a"), ("new", str(file), "--kid", "b"), ("rotate", str(file))):
        done = shell("keys", *words)
        assert done.code == 0, done.err
        said.append(done.out + done.err)
    assert "a is in" in said[0]
    assert "it signs" in said[0]
    assert "it verifies, and does not sign" in said[1]
    assert "b signs; a verify still" in said[2]
    settings = {"CU_PROJECT_SECRET_FILE": str(file), "CU_PROJECT_ID": "shop"}
    keys = tmp_path / "keys.toml"
    exported = shell("keys", "export", "--for", "brain", **settings)
    keys.write_text(exported.out)
    keys.chmod(0o600)
    listed = shell("keys", "list", "--json", **settings, CU_PROJECT_KEYS_FILE=str(keys))
    assert [tuple(each.values()) for each in json.loads(listed.out)] == [
        ("shop", "b", "signs", "own secrets"),
        ("shop", "a", "verifies", "own secrets"),
        ("shop", "b", "active", "keys file"),
        ("shop", "a", "retiring", "keys file"),
    ]
    said.append(shell("keys", "list", **settings).out)
    done = shell("keys", "retire", str(file), "a")
    said.append(done.err)
    assert (done.code, SecretFile(file).kids()) == (0, ["b"])
    assert shell("keys", "retire", str(file), "b").code == 1
    for secret in parse_project_secrets(file.read_text().strip()):
        assert not any(secret.secret in each for each in said)
