import io
import sys
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drhn_cli.errors import SourceError, about
from drhn_cli.images.archive import read_members
from tests.archives import write_tar

FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)


def members_of(content):
    with about("a.tar"):
        return list(read_members(io.BytesIO(content)))


def header(name="a.jpg", **fields):
    """Return a header block whose fields are set as told, whatever they are."""
    info = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.GNU_FORMAT)


def sealed(block, **fields):
    """Return a header block with bytes replaced at places (``at123=b"..."``), and the checksum that fits."""
    block = bytearray(block)
    for place, value in fields.items():
        at = int(place[2:])
        block[at : at + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def pax(*records, kind=tarfile.XHDTYPE):
    content = b""
    for key, value in records:
        length = len(key) + len(value) + 3
        while len(record := b"%d %s=%s\n" % (length, key, value)) != length:
            length = len(record)
        content += record
    return header("pax", type=kind, size=len(content)) + content.ljust(-(-len(content) // 512) * 512, b"\0")


END = bytes(1024)
NAMES = ["a.jpg", "d/" * 60 + "b.jpg", "long" * 40 + ".png", "Жук.png", "caf\udce9.jpg"]


@pytest.mark.parametrize("tar_format", FORMATS)
def test_members_are_those_that_tarfile_finds(tmp_path, tar_format):
    names = NAMES[:2] if tar_format == tarfile.USTAR_FORMAT else NAMES
    contents = [bytes([i]) * (i * 500) for i in range(len(names))]
    path = write_tar(tmp_path / "a.tar", zip(names, contents, strict=True), tar_format)
    raw = path.read_bytes()
    found = members_of(raw)
    assert [member.name for member in found] == [name.encode("utf-8", "surrogateescape") for name in names]
    assert [raw[member.offset : member.offset + member.size] for member in found] == contents
    assert {member.kind for member in found} == {"file"}


def test_times_in_a_header_of_gnu_are_no_beginning_of_a_name():
    block = sealed(header("pics/a.jpg", size=3), at345=b"15301653054\x00")
    assert [(member.name, member.size) for member in members_of(block + b"abc".ljust(512, b"\0") + END)] == [
        (b"pics/a.jpg", 3)
    ]


def test_every_kind_is_told_and_skipped_as_long_as_it_is():
    kinds = {
        tarfile.DIRTYPE: "a folder",
        tarfile.SYMTYPE: "a symbolic link",
        tarfile.LNKTYPE: "a hard link",
        tarfile.CHRTYPE: "a device",
        tarfile.BLKTYPE: "a device",
        tarfile.FIFOTYPE: "a FIFO",
        tarfile.CONTTYPE: "file",
        tarfile.AREGTYPE: "file",
        b"V": "of an unknown kind",
    }
    content = b"".join(header(type=kind) for kind in kinds) + header("last", size=1) + b"x".ljust(512, b"\0") + END
    assert [member.kind for member in members_of(content)] == [*kinds.values(), "file"]
    # Links and folders have no content, whatever their size says.
    assert len(members_of(header(type=tarfile.SYMTYPE, size=5000) + header("b") + END)) == 2


def test_pax_names_and_sizes_go_before_those_of_the_header():
    content = pax((b"path", b"\xff/b.jpg"), (b"mtime", b"1.5"), (b"size", b"700")) + header(size=0) + bytes(1024)
    member, last = members_of(content + header("last") + END)
    assert (member.name, member.size, last.name, last.size) == (b"\xff/b.jpg", 700, b"last", 0)


def test_the_size_of_a_member_is_not_that_of_the_header_between():
    long = header("././@LongLink", type=tarfile.GNUTYPE_LONGNAME, size=6) + b"b.jpg\0".ljust(512, b"\0")
    (member,) = members_of(pax((b"size", b"700")) + long + header(size=0) + bytes(1024) + END)
    assert (member.name, member.size) == (b"b.jpg", 700)


def test_a_global_header_of_a_comment_is_passed_over():
    assert len(members_of(pax((b"comment", b"0" * 40), kind=tarfile.XGLTYPE) + header() + END)) == 1


def test_sparse_files_are_told_in_all_their_forms():
    old = sealed(header(type=tarfile.GNUTYPE_SPARSE, size=512), at482=b"\1")
    extended = [b"\1".rjust(505, b"\0").ljust(512, b"\0"), bytes(512)]
    content = old + b"".join(extended) + b"x" * 512 + header("b")
    assert [(member.name, member.kind) for member in members_of(content + END)] == [
        (b"a.jpg", "a sparse file"),
        (b"b", "file"),
    ]
    for records in ([(b"GNU.sparse.map", b"0,1")], [(b"GNU.sparse.major", b"1"), (b"GNU.sparse.name", b"c.jpg")]):
        (member,) = members_of(pax(*records) + header() + END)
        assert member.kind == "a sparse file"
    assert member.name == b"c.jpg"


@pytest.mark.skipif(sys.platform != "linux", reason="GNU tar is Linux's")
def test_sparse_files_of_gnu_tar_are_told(tmp_path, monkeypatch):
    import subprocess

    monkeypatch.chdir(tmp_path)
    with open("hole.jpg", "wb") as stream:
        for i in range(40):
            stream.seek(i << 20)
            stream.write(b"x")
    Path("after.jpg").write_bytes(b"after")
    for form in ("--format=gnu", "--format=pax", "--sparse-version=0.1"):
        subprocess.run(["/bin/tar", "-cSf", "a.tar", form, "hole.jpg", "after.jpg"], check=True)
        raw = Path("a.tar").read_bytes()
        hole, after = members_of(raw)
        assert (hole.kind, hole.name, after.kind) == ("a sparse file", b"hole.jpg", "file")
        assert raw[after.offset : after.offset + after.size] == b"after"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cut short .found 0 bytes without an end mark"),
        (
            b"\x1f\x8b\x08" + bytes(600),
            "a compressed archive .expected a plain tar archive, found gzip.; decompress it",
        ),
        (b"BZh9" + b"1" * 600, "found bzip2"),
        (b"\xfd7zXZ\0" + b"1" * 600, "found xz"),
        (b"\x28\xb5\x2f\xfd" + b"1" * 600, "found zstd"),
        (b"\x1f\x8b\x08", "found gzip"),
        (b"a letter", "no tar archive .found bytes 61 20 6c"),
        (b"a letter" * 100, "no tar archive"),
        (header(), "cut short"),
        (header() + bytes(100), "cut short"),
        (header(size=513) + bytes(512), r"cut short .found 1024 bytes where a member ends at 1025"),
        (header(size=2**60) + bytes(512), "cut short"),
        (sealed(header(), at124=b"\xff" * 12) + END, "damaged archive .found a negative size at byte 512"),
        (sealed(header(), at124=b"9" * 12) + END, "no tar archive"),
        (header() + b"x" * 512 + END, "damaged archive .found .* at byte 512"),
        (header() + sealed(header(), at124=b"9" * 12) + END, "damaged archive"),
        (header("x", type=tarfile.XHDTYPE, size=2**21) + bytes(2**21) + END, "extension header of 2097152 bytes"),
        (header("x", type=tarfile.GNUTYPE_LONGNAME, size=2**21) + bytes(2**21) + END, "extension header"),
        (header("x", type=tarfile.XHDTYPE, size=9) + b"9 a=b\nxyz".ljust(512, b"\0") + END, "a damaged pax header"),
        (header("x", type=tarfile.XHDTYPE, size=9) + b"no record".ljust(512, b"\0") + END, "a damaged pax header"),
        (pax((b"size", b"many")) + header() + END, "a size that is no number"),
        (pax((b"size", b"9" * 5000)) + header() + END, "a size that is no number"),
        (pax((b"size", b"-512")) + header() + END, "a negative size"),
        (pax((b"path", b"a.jpg"), kind=tarfile.XGLTYPE) + header() + END, "a name or size for all members"),
        (sealed(header(type=tarfile.GNUTYPE_SPARSE), at482=b"\1") + b"\1" * 2048, "cut short"),
    ],
)
def test_what_is_wrong_is_said(content, message):
    with pytest.raises(SourceError, match=rf"^a\.tar: .*{message}"):
        members_of(content)


def test_many_records_and_many_headers_cost_little():
    records = pax(*((b"key%d" % i, b"") for i in range(50_000)))
    (member,) = members_of(records * 3 + header() + END)
    assert member.name == b"a.jpg"


@settings(deadline=None, max_examples=300)
@given(
    start=st.integers(0, 4000),
    junk=st.binary(max_size=40),
    end=st.integers(0, 8000),
    reseal=st.booleans(),
    tar_format=st.sampled_from(FORMATS),
)
def test_damage_of_any_kind_is_an_error_or_nothing_at_all(tmp_path_factory, start, junk, end, reseal, tar_format):
    path = tmp_path_factory.getbasetemp() / f"{tar_format}.tar"
    if not path.exists():
        write_tar(path, [(name, b"x" * 700) for name in (NAMES[:2] if tar_format == FORMATS[0] else NAMES)], tar_format)
    raw = bytearray(path.read_bytes()[:end])
    raw[start : start + len(junk)] = junk
    if reseal:
        block = start // 512 * 512
        raw[block : block + 512] = sealed(raw[block : block + 512].ljust(512, b"\0"))
    try:
        members = members_of(bytes(raw))
    except SourceError:
        return
    assert all(0 <= member.size <= len(raw) - member.offset for member in members)
