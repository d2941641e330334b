"""What is wrong with the files and folders that settings name, as far as any program can tell."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import TYPE_CHECKING

from pydantic import SecretStr

from meshkit.config import tls
from meshkit.config.certificates import fits, parse_certificates, parse_key, read_file
from meshkit.config.problems import Problem, Wrong
from meshkit.config.redis_url import RedisUrl, is_redis_url

if TYPE_CHECKING:
    from meshkit.config.shared import SharedConfig


def check_files(config: SharedConfig) -> list[Problem]:
    """What is wrong with certificates, the keys file, the state folder, and the certificates for Redis."""
    problems = tls.check_files(config)
    problems += _check_keys_file(config.project_keys_file)
    problems += _check_state_folder(config.state_dir)
    for setting, url in _redis_urls(config):
        problems += (
            Problem(setting, f"its option {option}: {wrong.what}", wrong.mend)
            for option, wrong in _check_redis_files(url)
        )
    return problems


def _check_keys_file(path: Path | None) -> Iterator[Problem]:
    """Whether it is there; only services read it, and only they need be able to."""
    if path is None:
        return
    setting, mend = "CU_PROJECT_KEYS_FILE", "mend the path, or unset it"
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        yield Problem(setting, f"there is no file {path}", mend)
    except OSError as error:
        yield Problem(setting, f"{path} cannot be read ({error.strerror})", mend)
    else:
        if not S_ISREG(mode):
            yield Problem(setting, f"{path} is no file", mend)


def _check_state_folder(folder: Path) -> Iterator[Problem]:
    """Whether something else stands there; who needs the folder makes it."""
    try:
        other = not S_ISDIR(folder.stat().st_mode)
    except FileNotFoundError:
        return
    except NotADirectoryError:
        other = True
    except OSError as error:
        yield Problem("CU_STATE_DIR", f"{folder}: it cannot be used ({error.strerror})", "choose another")
        return
    if other:
        yield Problem("CU_STATE_DIR", f"{folder}: it is not a folder", "choose another")


def _redis_urls(config: SharedConfig) -> Iterator[tuple[str, RedisUrl]]:
    """The URLs of a Redis among the settings, by setting; what is wrong with one itself is told elsewhere."""
    for field in type(config).model_fields:
        value = getattr(config, field)
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        if isinstance(text, str) and is_redis_url(text):
            with suppress(Wrong):
                yield config.env_name(field), RedisUrl.parse(text)


def _check_redis_files(url: RedisUrl) -> Iterator[tuple[str, Wrong]]:
    """What is wrong with the files that a URL names, each with its option."""
    try:
        option = "ssl_ca_certs"
        if url.ca_certs is not None:
            parse_certificates(read_file(url.ca_certs), url.ca_certs)
        option = "ssl_certfile"
        if url.certfile is not None:
            pem = read_file(url.certfile)
            chain = parse_certificates(pem, url.certfile)
            if url.keyfile is None and b"PRIVATE KEY-----" not in pem:
                raise Wrong(f"{url.certfile} holds no key", "name the key's file in ssl_keyfile")
            option = "ssl_keyfile" if url.keyfile else option
            path = url.keyfile or url.certfile
            if not fits(parse_key(read_file(path, private=True), path), chain[0]):
                raise Wrong(
                    f"the key in {path} is not that of the certificate in {url.certfile}", "name a pair"
                )
    except Wrong as wrong:
        yield option, wrong
