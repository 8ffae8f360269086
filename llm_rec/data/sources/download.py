"""Getting public files: https only, resumable, checked against published checksums, unpacked without escaping.

Nothing here runs at import, and nothing is executed that was downloaded.
"""

import fcntl
import hashlib
import os
import shutil
import stat
import tarfile
import urllib.error
import urllib.request
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from io import BufferedIOBase
from pathlib import Path, PurePosixPath
from typing import IO, Literal, Protocol, runtime_checkable

from llm_rec.errors import DataError
from llm_rec.progress import progress

_CHUNK = 1 << 20
_TIMEOUT = 15.0  # seconds without an answer or a byte
_ATTEMPTS = 5
_GIB = 1 << 30


def default_cache() -> Path:
    """Folder for downloaded data: ``$XDG_CACHE_HOME/llm-rec``, or ``~/.cache/llm-rec``."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "llm-rec"


def download(
    url: str,
    path: Path,
    *,
    algorithm: Literal["md5", "sha256"] = "sha256",
    checksum: str | None = None,
    max_bytes: int = 8 * _GIB,
    handlers: Sequence[urllib.request.BaseHandler] = (),
) -> Path:
    """Download `url` to `path`, or return `path` at once when it is there already.

    An interrupted download goes on where it stopped (by Range, when the server names the version of its file). The
    `checksum` is compared before the file gets its name. `handlers` extend urllib's opener (with a proxy, say).

    Raises `DataError` when the address is not https, the server cannot be reached or refuses, the file is larger than
    `max_bytes`, or the checksum differs.
    """
    _require_https(url)
    path = Path(path)
    if path.is_file():
        _require_checksum(path, path.name, algorithm, checksum)
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    opener = urllib.request.build_opener(_OnlyHttps(), *handlers)
    for attempt in range(1, _ATTEMPTS + 1):
        before = _size(partial)
        try:
            if _continue(opener, url, partial, max_bytes):
                break
            reason = "the connection ended early"
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416:  # our part does not fit the file any more
                partial.unlink(missing_ok=True)
            reason = f"the server answers {error.code} {error.reason}"
            if error.code != 416:
                raise DataError(_unreachable(url, path, reason)) from error
        except (OSError, HTTPException) as error:
            reason = str(error) or type(error).__name__
        if attempt == _ATTEMPTS or _size(partial) <= before:
            raise DataError(_unreachable(url, path, reason))
    _version_file(partial).unlink(missing_ok=True)
    try:
        _require_checksum(partial, url, algorithm, checksum)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def unpack(archive: Path, folder: Path, *, max_bytes: int = 32 * _GIB, max_files: int = 100_000) -> Path:
    """Unpack a zip, wheel or tar file to the new folder `folder`, which appears only when all of it is there.

    Only plain files and folders are taken. Links, devices, names that leave the folder, encrypted or repeated members,
    and archives beyond the limits are refused with a `DataError`; permissions are not taken over.
    """
    archive, folder = Path(archive), Path(folder)
    if folder.exists():
        raise DataError(f"{folder} already exists; remove it or choose another folder")
    partial = folder.parent / f".{folder.name}.partial-{uuid.uuid4().hex[:8]}"
    partial.mkdir(parents=True)
    budget = max_bytes
    try:
        for number, (name, stream) in enumerate(_members(archive)):
            if number >= max_files:
                raise DataError(f"{archive}: more than {max_files} files; raise the limit if you trust it")
            target = partial / _safe(archive, name)
            if target.exists():
                raise DataError(f"{archive}: holds {name!r} twice; get the archive again")
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as out:
                while chunk := stream.read(_CHUNK):
                    budget -= len(chunk)
                    if budget < 0:
                        raise DataError(
                            f"{archive}: unpacks to more than {max_bytes} bytes; raise the limit if you trust it"
                        )
                    out.write(chunk)
        partial.rename(folder)
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError) as error:
        raise DataError(f"{archive}: not a readable archive ({error}); remove it and get it again") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def fetch_archive(
    url: str,
    folder: Path,
    *,
    algorithm: Literal["md5", "sha256"] = "sha256",
    checksum: str | None = None,
    handlers: Sequence[urllib.request.BaseHandler] = (),
) -> Path:
    """Download an archive and unpack it to `folder`, once: a later call returns the folder at once.

    Processes that may do so at the same time take turns by `exclusive`.
    """
    folder = Path(folder)
    if folder.is_dir():
        return folder
    archive = folder.parent / url.rsplit("/", 1)[-1]
    download(url, archive, algorithm=algorithm, checksum=checksum, handlers=handlers)
    unpack(archive, folder)
    archive.unlink()
    return folder


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Let one process at a time fill `folder`; the others wait. The lock dies with its process."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class _OnlyHttps(urllib.request.BaseHandler):
    """Refuses what a redirect may lead to, before urllib's own handlers see it."""

    handler_order = 0

    def http_open(self, req: urllib.request.Request) -> None:
        _require_https(req.full_url)

    ftp_open = http_open


@runtime_checkable
class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def _continue(opener: urllib.request.OpenerDirector, url: str, partial: Path, max_bytes: int) -> bool:
    """Read on from the end of `partial`; whether the file is complete now."""
    request = urllib.request.Request(url, headers={"User-Agent": "llm-rec"})
    version, start = _version_file(partial), _size(partial)
    if start and version.is_file():
        request.add_header("Range", f"bytes={start}-")
        request.add_header("If-Range", version.read_text(encoding="utf-8"))
    with opener.open(request, timeout=_TIMEOUT) as answer:
        goes_on = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        start = start if goes_on else 0
        _remember_version(version, answer.headers.get("ETag"))
        length = answer.headers.get("Content-Length")
        total = None if length is None else start + int(length)
        if total is not None and total > max_bytes:
            raise DataError(f"{url}: {total} bytes is more than the limit of {max_bytes}; raise max_bytes")
        with (
            partial.open("ab" if goes_on else "wb") as out,
            progress(f"download {partial.name[1:-8]}", total) as advance,
        ):
            advance(start)
            _copy(answer, out, max_bytes - start, url, advance)
    return total is None or _size(partial) == total


def _copy(stream: _Readable, out: BufferedIOBase, budget: int, url: str, advance: Callable[[int], None]) -> None:
    while chunk := stream.read(_CHUNK):
        budget -= len(chunk)
        if budget < 0:
            raise DataError(f"{url}: the file is larger than the limit; raise max_bytes")
        out.write(chunk)
        advance(len(chunk))


def _version_file(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.etag")


def _remember_version(path: Path, etag: str | None) -> None:
    if etag and not etag.startswith("W/"):  # weak ones do not promise equal bytes
        path.write_text(etag, encoding="utf-8")
    else:
        path.unlink(missing_ok=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _require_https(url: str) -> None:
    if not url.startswith("https://"):
        raise DataError(f"{url}: only https addresses are downloaded")


def _require_checksum(path: Path, name: str, algorithm: Literal["md5", "sha256"], checksum: str | None) -> None:
    if checksum is None:
        return
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, algorithm).hexdigest()
    if found != checksum:
        raise DataError(f"{name}: {algorithm} is {found}, published is {checksum}; the file is damaged, get it again")


def _unreachable(url: str, path: Path, reason: str) -> str:
    return f"cannot download {url} ({reason}); check the network, or get the file elsewhere and put it at {path}"


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Name and content of each file in a zip or tar archive, in its order."""
    if not archive.is_file():
        raise DataError(f"{archive}: no such file")
    if zipfile.is_zipfile(archive):
        yield from _zip_members(archive)
    elif tarfile.is_tarfile(archive):
        yield from _tar_members(archive)
    else:
        raise DataError(f"{archive}: neither a zip nor a tar archive; remove it and get it again")


def _zip_members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(archive) as zipped:
        for info in zipped.infolist():
            if info.is_dir():
                continue
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG):
                raise DataError(f"{archive}: {info.filename!r} is a link or device; only plain files are unpacked")
            if info.flag_bits & 1:
                raise DataError(f"{archive}: {info.filename!r} is encrypted; unpack the archive yourself")
            with zipped.open(info) as stream:
                yield info.filename, stream


def _tar_members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with tarfile.open(archive) as tarred:
        for member in tarred:
            if member.isdir():
                continue
            stream = tarred.extractfile(member) if member.isreg() else None
            if stream is None:
                raise DataError(f"{archive}: {member.name!r} is a link or device; only plain files are unpacked")
            with stream:
                yield member.name, stream


def _safe(archive: Path, name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or "\0" in name or not path.parts:
        raise DataError(f"{archive}: the name {name!r} leads out of the folder; do not trust this archive")
    return path


@contextmanager
def open_member(archive: Path, name: str, *, max_bytes: int = 8 * _GIB) -> Iterator[IO[bytes]]:
    """One file of a zip archive, read in place."""
    with zipfile.ZipFile(archive) as zipped:
        size = zipped.getinfo(name).file_size
        if size > max_bytes:
            raise DataError(f"{archive}: {name!r} unpacks to {size} bytes, more than the limit of {max_bytes}")
        with zipped.open(name) as stream:
            yield stream
