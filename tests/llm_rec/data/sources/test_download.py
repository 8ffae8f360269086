"""Downloads against a transport in memory, and archives that try to get out."""

import hashlib
import io
import stat
import tarfile
import urllib.error
import urllib.request
import zipfile
from concurrent.futures import ThreadPoolExecutor
from email.message import Message
from urllib.response import addinfourl

import pytest

from llm_rec.data.sources import obtain_movielens
from llm_rec.data.sources.download import default_cache, download, fetch_archive, unpack
from llm_rec.errors import DataError

URL = "https://data.example.com/files/set.zip"
CONTENT = bytes(range(256)) * 40


class Answer(addinfourl):
    """An answer of urllib with a message, as its error processor expects."""

    def __init__(self, content, headers, url, code):
        message = Message()
        for name, value in headers.items():
            message[name] = value
        super().__init__(io.BytesIO(content), message, url, code)
        self.msg = "status"


class Server(urllib.request.HTTPSHandler):
    """Serves `content` over https from memory; each request may break off after the next of `breaks` bytes."""

    def __init__(self, content=CONTENT, *, etag='"v1"', breaks=(), redirect=None, status=200):
        super().__init__()
        self.content, self.etag, self.breaks = content, etag, list(breaks)
        self.redirect, self.status, self.seen = redirect, status, []

    def https_open(self, req):
        headers = {name.lower(): value for name, value in req.header_items()}
        self.seen.append(headers.get("range"))
        if self.redirect:
            return Answer(b"", {"Location": self.redirect}, req.full_url, 302)
        if self.status != 200:
            return Answer(b"", {}, req.full_url, self.status)
        start, code, extra = 0, 200, {}
        if "range" in headers and headers.get("if-range") == self.etag:
            start = int(headers["range"].removeprefix("bytes=").removesuffix("-"))
            code = 206
            extra["Content-Range"] = f"bytes {start}-{len(self.content) - 1}/{len(self.content)}"
        body = self.content[start:]
        extra["Content-Length"] = str(len(body))
        if self.etag:
            extra["ETag"] = self.etag
        if self.breaks:
            body = body[: self.breaks.pop(0)]
        return Answer(body, extra, req.full_url, code)


class Unplugged(urllib.request.HTTPSHandler):
    def https_open(self, req):
        raise urllib.error.URLError("Name or service not known")


def no_leftovers(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


def test_download_writes_the_content_once(tmp_path):
    server = Server()
    checksum = hashlib.sha256(CONTENT).hexdigest()
    path = download(URL, tmp_path / "new" / "set.zip", checksum=checksum, handlers=[server])
    assert path.read_bytes() == CONTENT
    assert download(URL, path, handlers=[Unplugged()]) == path
    assert server.seen == [None]
    assert no_leftovers(path.parent)


def test_broken_connections_are_resumed_where_they_stopped(tmp_path):
    server = Server(breaks=[1000, 2500])
    path = download(URL, tmp_path / "set.zip", handlers=[server])
    assert path.read_bytes() == CONTENT
    assert server.seen == [None, "bytes=1000-", "bytes=3500-"]
    assert no_leftovers(tmp_path)


def test_a_later_call_resumes_what_an_earlier_one_left(tmp_path):
    with pytest.raises(DataError, match="the connection ended early"):
        download(URL, tmp_path / "set.zip", handlers=[Server(breaks=[300, 0])])
    assert not (tmp_path / "set.zip").exists()
    server = Server()
    assert download(URL, tmp_path / "set.zip", handlers=[server]).read_bytes() == CONTENT
    assert server.seen == ["bytes=300-"]


def test_a_changed_file_is_started_again(tmp_path):
    with pytest.raises(DataError):
        download(URL, tmp_path / "set.zip", handlers=[Server(breaks=[300, 0])])
    newer = Server(CONTENT[::-1], etag='"v2"')
    assert download(URL, tmp_path / "set.zip", handlers=[newer]).read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_without_a_strong_version_everything_is_read_again(tmp_path, etag):
    with pytest.raises(DataError):
        download(URL, tmp_path / "set.zip", handlers=[Server(etag=etag, breaks=[300, 0])])
    server = Server(etag=etag)
    assert download(URL, tmp_path / "set.zip", handlers=[server]).read_bytes() == CONTENT
    assert server.seen == [None]


def test_wrong_checksum_is_refused_and_nothing_is_left(tmp_path):
    with pytest.raises(
        DataError, match=r"set.zip: md5 is [0-9a-f]{32}, published is 0000; the file is damaged, get it again"
    ):
        download(URL, tmp_path / "set.zip", algorithm="md5", checksum="0000", handlers=[Server()])
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "set.zip").write_bytes(b"put here by hand")
    with pytest.raises(DataError, match=r"set.zip: sha256 is [0-9a-f]{64}, published is 0000; the file is damaged"):
        download(URL, tmp_path / "set.zip", checksum="0000", handlers=[Unplugged()])
    assert (tmp_path / "set.zip").read_bytes() == b"put here by hand"


def test_only_https_is_downloaded_even_after_a_redirect(tmp_path):
    with pytest.raises(DataError, match="http://example.com/x: only https addresses are downloaded"):
        download("http://example.com/x", tmp_path / "x")
    with pytest.raises(DataError, match="file:///etc/hostname: only https addresses are downloaded"):
        download("file:///etc/hostname", tmp_path / "x")
    with pytest.raises(DataError, match="http://evil.example.com/x: only https addresses are downloaded"):
        download(URL, tmp_path / "x", handlers=[Server(redirect="http://evil.example.com/x")])


def test_offline_message_says_what_to_do(tmp_path):
    with pytest.raises(DataError) as caught:
        download(URL, tmp_path / "set.zip", handlers=[Unplugged()])
    message = str(caught.value)
    assert message.startswith(
        f"cannot download {URL} (<urlopen error Name or service not known>); check the network, or"
    )
    assert message.endswith(f"get the file elsewhere and put it at {tmp_path / 'set.zip'}")


def test_refusals_of_the_server_are_told(tmp_path):
    with pytest.raises(DataError, match="the server answers 404"):
        download(URL, tmp_path / "set.zip", handlers=[Server(status=404)])


def test_files_beyond_the_limit_are_refused(tmp_path):
    with pytest.raises(DataError, match="10240 bytes is more than the limit of 100; raise max_bytes"):
        download(URL, tmp_path / "set.zip", max_bytes=100, handlers=[Server()])


def test_offline_movielens_names_the_address_and_the_place(tmp_path):
    with pytest.raises(
        DataError, match=r"cannot download https://files.grouplens.org/datasets/movielens/ml-1m.zip .*ml-1m.zip$"
    ):
        obtain_movielens("1m", tmp_path, handlers=[Unplugged()])


def zip_of(path, members):
    with zipfile.ZipFile(path, "w") as zipped:
        for name, content in members:
            zipped.writestr(name, content)
    return path


def tar_of(path, members):
    with tarfile.open(path, "w:gz") as tarred:
        for info, content in members:
            info.size = len(content)
            tarred.addfile(info, io.BytesIO(content))
    return path


def test_zip_and_tar_are_unpacked(tmp_path):
    zip_of(tmp_path / "a.zip", [("top/", b""), ("top/x.txt", b"X"), ("top/deep/y.txt", b"Y")])
    folder = unpack(tmp_path / "a.zip", tmp_path / "zip")
    assert (folder / "top/deep/y.txt").read_bytes() == b"Y"
    directory = tarfile.TarInfo("top")
    directory.type = tarfile.DIRTYPE
    executable = tarfile.TarInfo("top/x.sh")
    executable.mode = 0o777
    tar_of(tmp_path / "a.tar.gz", [(directory, b""), (executable, b"X")])
    folder = unpack(tmp_path / "a.tar.gz", tmp_path / "tar")
    assert (folder / "top/x.sh").read_bytes() == b"X"
    assert not (folder / "top/x.sh").stat().st_mode & stat.S_IXUSR


@pytest.mark.parametrize("name", ["../out.txt", "/out.txt", "a/../../out.txt", "a\\..\\out.txt", "c:out.txt"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_names_that_leave_the_folder_are_refused(tmp_path, name, kind):
    root = tmp_path / "root"
    root.mkdir()
    archive = tmp_path / "evil"
    if kind == "zip":
        zip_of(archive, [("good.txt", b"G"), (name, b"E")])
    else:
        tar_of(archive, [(tarfile.TarInfo("good.txt"), b"G"), (tarfile.TarInfo(name), b"E")])
    with pytest.raises(DataError, match="leads out of the folder; do not trust this archive"):
        unpack(archive, root / "set")
    assert list(root.iterdir()) == []
    assert not list(tmp_path.rglob("out.txt"))


def test_links_are_refused(tmp_path):
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    zip_of(tmp_path / "a.zip", [(link, b"/etc/hostname")])
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
        info = tarfile.TarInfo("link")
        info.type, info.linkname = kind, "/etc/hostname"
        tar_of(tmp_path / "a.tar", [(info, b"")])
        with pytest.raises(DataError, match="'link' is a link or device; only plain files are unpacked"):
            unpack(tmp_path / "a.tar", tmp_path / "set")
    with pytest.raises(DataError, match="'link' is a link or device; only plain files are unpacked"):
        unpack(tmp_path / "a.zip", tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_bombs_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("zeros", bytes(1 << 20))
    with pytest.raises(DataError, match="unpacks to more than 1000 bytes; raise the limit if you trust it"):
        unpack(tmp_path / "a.zip", tmp_path / "set", max_bytes=1000)
    zip_of(tmp_path / "b.zip", [(f"{n}", b"") for n in range(5)])
    with pytest.raises(DataError, match="more than 3 files; raise the limit if you trust it"):
        unpack(tmp_path / "b.zip", tmp_path / "set", max_files=3)
    assert not (tmp_path / "set").exists()


def test_repeated_names_other_files_and_existing_folders_are_refused(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate name"):
        zip_of(tmp_path / "a.zip", [("x", b"1"), ("x", b"2")])
    with pytest.raises(DataError, match="holds 'x' twice; get the archive again"):
        unpack(tmp_path / "a.zip", tmp_path / "set")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(DataError, match="neither a zip nor a tar archive; remove it and get it again"):
        unpack(tmp_path / "text", tmp_path / "set")
    with pytest.raises(DataError, match="nowhere: no such file"):
        unpack(tmp_path / "nowhere", tmp_path / "set")
    (tmp_path / "set").mkdir()
    with pytest.raises(DataError, match="set already exists; remove it or choose another folder"):
        unpack(tmp_path / "a.zip", tmp_path / "set")


def test_damaged_archives_are_told(tmp_path):
    path = zip_of(tmp_path / "a.zip", [("x", b"hello")])
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"hello")] ^= 1
    path.write_bytes(bytes(raw))
    with pytest.raises(DataError, match=r"a.zip: not a readable archive \(Bad CRC-32"):
        unpack(path, tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_fetched_archive_becomes_a_folder_once(tmp_path):
    buffer = io.BytesIO()
    zip_of(buffer, [("top/x.txt", b"X")])
    folder = fetch_archive(URL, tmp_path / "set", handlers=[Server(buffer.getvalue())])
    assert (folder / "top/x.txt").read_bytes() == b"X"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"]
    assert fetch_archive(URL, tmp_path / "set", handlers=[Unplugged()]) == folder


def test_cache_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "llm-rec"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache().parts[-2:] == (".cache", "llm-rec")


def test_callers_at_the_same_time_download_once(tmp_path):
    buffer = io.BytesIO()
    zip_of(buffer, [("ml-latest-small/ratings.csv", b"x"), ("ml-latest-small/movies.csv", b"y")])
    server = Server(buffer.getvalue())
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(obtain_movielens, "latest-small", tmp_path, handlers=[server]) for _ in range(4)]
        found = {job.result() for job in jobs}
    assert found == {tmp_path / "ml-latest-small"}
    assert server.seen == [None]
