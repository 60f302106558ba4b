"""Survey Ollama's library: which models would load here, and where their prompt format is.

    python -m tools.survey_ollama                      the first 150 models of the library's page
    python -m tools.survey_ollama --names names.txt    one name per line, such as qwen3:0.6b
    python -m tools.survey_ollama --limit 20 --out build/survey

It downloads no model: of each it asks for the manifest, the configuration and the first bytes of
the weights, at most 16 MiB, until the header is complete. It asks for one model at a time with a
pause in between, and waits when the registry asks it to. What is known is kept in the output
folder, so that a call that was interrupted continues; --refresh asks again. The table is written to
survey.csv and survey.md. The registry and the plain-HTTP hosts are those of the puller's settings.

The program was tested with a local registry. It has not been run against the real one yet.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

import msgspec

from services.puller.formats.chat_template import extract_jinja
from services.puller.formats.gguf.description import check_first_bytes, check_part_count
from services.puller.formats.gguf.header import GgufHeader, read_header
from services.puller.formats.gguf.reading import HeaderIncomplete
from services.puller.formats.lint import lint_gguf
from services.puller.formats.template_choice import find_renderer
from services.puller.settings import PullerSettings, split_list
from services.puller.sources.base import Listing, RemoteFile, ResolveOptions
from services.puller.sources.ollama import OllamaSource
from services.puller.transport.address import Address
from services.puller.transport.busy import find_busy_error
from services.puller.transport.http_client import HttpSession, Reply
from services.shared.errors import (
    InvalidModelFile,
    InvalidModelName,
    PullFailed,
    SourceUnavailable,
    SpindllError,
)
from services.shared.model_name import OLLAMA_HOST, ModelName
from services.shared.settings import read_settings
from services.shared.store.manifest import FileRole
from tools.survey_table import Finding, write_tables

MAX_HEADER_BYTES = 16 << 20
_FIRST_LOOK_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 18
_MAX_PAGE_BYTES = 8 << 20
_TIMEOUT_SECONDS = 30.0
_TRIES = 3
# The address of a model of the library, in the page that lists them.
_LIBRARY_LINK = re.compile(r'href="/library/([A-Za-z0-9][A-Za-z0-9._-]*)"')


def survey_model(source: OllamaSource, name: ModelName) -> Finding:
    """What a pull of one model would find out, from its first bytes.

    Raises SourceUnavailable when the registry does not answer.
    """
    try:
        listing = source.resolve(name, ResolveOptions(format="gguf"))
    except SourceUnavailable:
        raise
    except SpindllError as error:
        return Finding(name=str(name), loads="no", reason=error.message)
    weights = [file for file in listing.files if file.role is FileRole.MODEL]
    found = Finding(
        name=str(name),
        loads="yes",
        reason=" ".join(listing.warnings),
        size_bytes=sum(file.size_bytes for file in listing.files),
        renderer=_read_renderer(listing),
        has_go_template=any(file.role is FileRole.TEMPLATE for file in listing.files),
    )
    header: GgufHeader | None = None
    try:
        header = fetch_header(weights[0])
        check_first_bytes(header)
        check_part_count(header, len(weights))
    except SourceUnavailable:
        raise
    except SpindllError as error:
        found = msgspec.structs.replace(found, loads="no", reason=error.message)
    if header is None:
        return found
    if found.loads == "yes" and (doubts := lint_gguf([header])):
        found = msgspec.structs.replace(found, loads="perhaps", reason=" ".join(doubts))
    return msgspec.structs.replace(
        found,
        architecture=header.architecture,
        has_jinja=extract_jinja(header.text("tokenizer.chat_template")) is not None,
    )


def fetch_header(file: RemoteFile) -> GgufHeader:
    """The header of a GGUF, from as many of its first bytes as that takes.

    Raises InvalidModelFile, also when it does not end within 16 MiB, and SourceUnavailable.
    """
    session = HttpSession(timeout_seconds=_TIMEOUT_SECONDS)
    wanted = min(MAX_HEADER_BYTES, file.size_bytes)
    try:
        with session.get(file.address, {"Range": f"bytes=0-{wanted - 1}"}) as reply:
            if busy := find_busy_error("the registry", reply.status, reply.header):
                raise busy
            if reply.status not in (200, 206):
                raise PullFailed(f"the registry answered HTTP {reply.status} for the weights")
            return _read_head(reply, wanted, file.size_bytes)
    finally:
        session.close()


def _read_head(reply: Reply, wanted: int, size_bytes: int) -> GgufHeader:
    with tempfile.NamedTemporaryFile() as head:
        head.truncate(size_bytes)  # sparse: the reader compares the size with the tensors
        got, look_at = 0, min(_FIRST_LOOK_BYTES, wanted)
        while got < wanted:
            data = reply.read_chunk(min(_CHUNK_BYTES, wanted - got))
            if not data:
                raise SourceUnavailable("the connection broke while reading")
            head.write(data)
            got += len(data)
            if got < look_at:
                continue
            head.flush()
            try:
                return read_header(Path(head.name), available_bytes=got)
            except HeaderIncomplete:
                look_at = min(2 * got, wanted)
    raise InvalidModelFile("the header does not end within the first 16 MiB")


def fetch_library_names(page_url: str, limit: int) -> list[str]:
    """The names of the library's models, in the order of its page."""
    session = HttpSession(timeout_seconds=_TIMEOUT_SECONDS)
    try:
        with session.get(Address(page_url)) as reply:
            text = reply.read_all(_MAX_PAGE_BYTES).decode(errors="replace")
            if reply.status != 200:
                raise PullFailed(f"the library's page answered HTTP {reply.status}")
    finally:
        session.close()
    names = list(dict.fromkeys(_LIBRARY_LINK.findall(text)))
    if not names:
        raise PullFailed("the library's page names no models; give a list with --names")
    return names[:limit]


def survey(
    source: OllamaSource, names: Iterable[str], folder: Path, *, pause: float, refresh: bool
) -> tuple[list[Finding], bool]:
    """The findings about all names, and whether every one is known now."""
    findings, is_complete, has_asked = [], True, False
    for text in names:
        cached = folder / "models" / f"{quote(text.lower(), safe='')}.json"
        found = None if refresh else _read_finding(cached)
        if found is None:
            if has_asked:
                time.sleep(pause)
            has_asked = True
            found = _survey_patiently(source, text, pause)
            if found is None:
                is_complete = False
                continue
            cached.parent.mkdir(parents=True, exist_ok=True)
            cached.write_bytes(msgspec.json.encode(found))
        print(f"{found.name}: loads: {found.loads}, prompt: {found.prompt}")
        findings.append(found)
    return findings, is_complete


def _survey_patiently(source: OllamaSource, text: str, pause: float) -> Finding | None:
    try:
        name = ModelName.parse(text)
    except InvalidModelName as error:
        return Finding(name=text, loads="no", reason=error.message)
    for attempt in range(1, _TRIES + 1):
        try:
            return survey_model(source, name)
        except SourceUnavailable as error:
            print(f"{text}: {error.message}", file=sys.stderr)
            if attempt < _TRIES:
                time.sleep(error.retry_after_seconds or pause * 2**attempt)
    return None


def _read_finding(path: Path) -> Finding | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Finding)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def _read_renderer(listing: Listing) -> str:
    configs = (file.data for file in listing.inline_files if file.role is FileRole.CONFIG)
    return find_renderer(next(configs, b"").decode(errors="replace")) or ""


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The options of a call."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--names", type=Path, help="file of model names, one a line")
    parser.add_argument("--library-page", default=f"https://{OLLAMA_HOST}/library", metavar="URL")
    parser.add_argument("--limit", type=int, default=150, help="how many models; default 150")
    parser.add_argument("--pause", type=float, default=2.0, help="seconds between models")
    parser.add_argument("--out", type=Path, default=Path("build/survey_ollama"), metavar="DIR")
    parser.add_argument("--refresh", action="store_true", help="ask again for what is known")
    return parser.parse_args(arguments)


def read_names(options: argparse.Namespace) -> list[str]:
    """The names to ask for; PullFailed or OSError when there are none."""
    if options.names is None:
        return fetch_library_names(options.library_page, options.limit)
    lines = [line.strip() for line in options.names.read_text().splitlines()]
    return [line for line in lines if line and not line.startswith("#")][: options.limit]


def main(arguments: list[str] | None = None) -> int:
    """Make the survey; the exit status is 1 when a model could not be asked for."""
    options = parse_arguments(arguments)
    settings = read_settings(PullerSettings)
    source = OllamaSource(
        settings.ollama_registry, plain_http_hosts=frozenset(split_list(settings.plain_http_hosts))
    )
    try:
        names = read_names(options)
    except (SpindllError, OSError) as error:
        print(f"no names of models: {error}", file=sys.stderr)
        return 1
    findings, is_complete = survey(
        source, names, options.out, pause=options.pause, refresh=options.refresh
    )
    write_tables(options.out, findings)
    print(f"{len(findings)} models: {options.out / 'survey.md'}, {options.out / 'survey.csv'}")
    if not is_complete:
        print("some models could not be asked for; call again to continue", file=sys.stderr)
    return 0 if is_complete else 1


if __name__ == "__main__":
    sys.exit(main())
