"""What an address says of its object store, in obstore's words: where it is, and who asks."""

import configparser
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote

from clip2video_pipe.manifests.addresses import Url

OPTIONS = {
    "s3": ("region", "endpoint_override", "scheme", "anonymous", "force_virtual_addressing", "tls_ca_file_path"),
    "gs": ("endpoint_override", "scheme", "anonymous", "tls_ca_file_path"),
}
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
# Where these are set, the keys of `~/.aws` are not asked for.
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")


def settings(url: Url) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """`s3` or `gs`, what is said to the store, and what to its connections. Raises ValueError; no secret is in it."""
    options = dict(parse_qsl(url.query, keep_blank_values=True))
    if not options.keys() <= set(OPTIONS[url.scheme]):
        raise ValueError(f"behind '?' of an address of {url.scheme}:// may stand {', '.join(OPTIONS[url.scheme])}")
    user, _, password = (unquote(part) for part in url.user.partition(":"))
    anonymous = _true(options, "anonymous") or (user == "anonymous" and not password)
    said, endpoint = _s3(url, options) if url.scheme == "s3" else _gs(options)
    if anonymous:
        said["skip_signature"] = True
    elif user and url.scheme == "s3":
        said["credential_provider"] = _keys(user, password)
    elif url.scheme == "s3":
        said |= {key: value for key, value in _profile().items() if key not in said}
    web: dict[str, Any] = {"allow_http": endpoint.startswith("http://")}
    if "tls_ca_file_path" in options:
        try:
            web["root_certificate"] = Path(options["tls_ca_file_path"]).read_bytes()
        except OSError as error:
            raise ValueError(f"tls_ca_file_path cannot be read: {error.strerror}") from None
    return url.scheme, said, web


def _s3(url: Url, options: dict[str, str]) -> tuple[dict[str, Any], str]:
    said: dict[str, Any] = {"disable_bulk_delete": True}
    if region := options.get("region"):
        said["region"] = region
    endpoint = _endpoint(options) or next((os.environ[name] for name in ENDPOINTS if os.environ.get(name)), "")
    if _true(options, "force_virtual_addressing"):
        endpoint = endpoint or f"https://s3.{region or os.environ.get('AWS_REGION') or 'us-east-1'}.amazonaws.com"
        scheme, _, host = endpoint.partition("://")
        endpoint = f"{scheme}://{url.host}.{host}"
        said["virtual_hosted_style_request"] = True
    return said | ({"endpoint": endpoint} if endpoint else {}), endpoint


def _gs(options: dict[str, str]) -> tuple[dict[str, Any], str]:
    endpoint = _endpoint(options) or os.environ.get("GOOGLE_BASE_URL", "")
    return {"base_url": endpoint} if endpoint else {}, endpoint


def _endpoint(options: dict[str, str]) -> str:
    """`endpoint_override` with a scheme: its own, that of `scheme`, or https."""
    endpoint = options.get("endpoint_override", "").rstrip("/")
    return endpoint if "://" in endpoint or not endpoint else f"{options.get('scheme') or 'https'}://{endpoint}"


def _true(options: dict[str, str], name: str) -> bool:
    said = options.get(name, "false").lower()
    if said not in ("true", "false", "1", "0"):
        raise ValueError(f"{name} has to be true or false")
    return said in ("true", "1")


def _keys(user: str, password: str, token: str | None = None) -> Callable[[], dict[str, Any]]:
    """These and nothing besides: keys that are said as settings are sent with AWS_SESSION_TOKEN, which is of others."""
    return partial(dict, access_key_id=user, secret_access_key=password, token=token, expires_at=None)


def _profile() -> dict[str, Any]:
    """Keys and region of the profile in `~/.aws`, which object_store does not read; keys only where none are said."""
    name = os.environ.get("AWS_PROFILE") or "default"
    found: dict[str, str] = {}
    for variable, file, section in (
        ("AWS_SHARED_CREDENTIALS_FILE", "credentials", name),
        ("AWS_CONFIG_FILE", "config", name if name == "default" else f"profile {name}"),
    ):
        path = Path(os.environ.get(variable) or Path.home() / ".aws" / file)
        read = configparser.RawConfigParser()
        try:
            read.read(path, encoding="utf-8")
        except (configparser.Error, UnicodeError):
            raise ValueError(f"{path} is not as the AWS tools write it") from None
        if read.has_section(section):
            found = dict(read[section]) | found
    said: dict[str, Any] = {}
    if "region" in found and not {"AWS_REGION", "AWS_DEFAULT_REGION"} & os.environ.keys():
        said["region"] = found["region"]
    if not any(os.environ.get(key) for key in KEYS) and {"aws_access_key_id", "aws_secret_access_key"} <= found.keys():
        token = found.get("aws_session_token")
        said["credential_provider"] = _keys(found["aws_access_key_id"], found["aws_secret_access_key"], token)
    return said
