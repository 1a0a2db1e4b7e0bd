import base64
import io
import os
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pytest
from PIL import ExifTags, Image

from drhn_cli.errors import DrhnError, ImageError, printable
from drhn_cli.retrieval.gallery import FileGallery
from drhn_cli.retrieval.query import Query, QueryOptions, answer_queries
from drhn_cli.sheets import sheet as job
from drhn_cli.sheets.html import Card, HtmlSheet
from drhn_cli.sheets.sheet import MAX_SIDE, answer_on_sheet, make_thumbnail
from tests.drawing import draw_gradient, draw_picture

HOSTILE = [
    b"<script>alert(1)</script>.png",
    b"\"><img src=x onerror=alert(1)>'&amp;",
    b"two\nlines\r\t\x1b[31m.png",
    b"\xff\xfe not utf-8 \x80.png",
    "right\u202egnp.to left \u05e9\u05dc\u05d5\u05dd.png".encode(),
    b"100%25 #1?x=http://example.org/.png",
]


class Page(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(data.decode())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    def classed(self, name):
        return [attributes for _, attributes in self.tags if name in (attributes.get("class") or "").split()]


def page_of(*sections):
    stream = io.BytesIO()
    sheet = HtmlSheet(stream, "codes.bin", "8 pictures")
    for section in sections:
        sheet.add(*section)
    sheet.finish()
    return stream.getvalue()


def section_of(*names, picture="gone"):
    cards = [
        Card(name=printable(name), folder="in", path=b"/in/" + name, picture=picture, distance=i)
        for i, name in enumerate(names)
    ]
    query = Card(name=printable(names[0]), folder="", path=b"/" + names[0], picture=picture)
    return query, "found", iter(cards)


@pytest.fixture
def draw(file, weights_path):
    """Answer queries on a sheet and return the page."""

    def call(*queries, path="found.html", exclude=(), **options):
        gallery, options = FileGallery(file, (), exclude), QueryOptions(weights=str(weights_path), **options)
        drawn, answers = answer_on_sheet(path, gallery, queries, options), answer_queries(gallery, queries, options)
        assert [answer.matches for answer in drawn] == [answer.matches for answer in answers]
        return Page(Path(os.fsdecode(path)).read_bytes())

    return call


STORED = Query(name=b"q", image="photos/circle/0000.png")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_text_and_a_link_that_opens_it(name):
    name = name.replace(b"/", b"|")
    harmless, hostile = (Page(page_of(section_of(n, b"other"))) for n in (b"harmless", name))
    assert [tag for tag, _ in hostile.tags] == [tag for tag, _ in harmless.tags]
    assert [list(attributes) for _, attributes in hostile.tags] == [list(attributes) for _, attributes in harmless.tags]
    (link, *_) = hostile.all("a")
    assert link["href"].isascii()
    assert unquote_to_bytes(link["href"].removeprefix("file://")) == b"/" + name
    assert not set(link["href"]) & set("<>\"'#? \n")


def test_names_reach_the_page_on_one_printable_line(draw, file, monkeypatch):
    monkeypatch.setattr(type(file), "path_bytes", lambda _, row: HOSTILE[row % len(HOSTILE)].replace(b"/", b"|"))
    page = draw(STORED)
    assert page.classed("missing")
    texts = [
        *page.texts,
        *(text for tag in ("span", "a") for attributes in page.all(tag) for text in attributes.values()),
    ]
    names = [text for text in texts if text and ("gnp" in text or "lines" in text or "utf-8" in text)]
    assert names
    assert all(name.isprintable() for name in names)


def test_a_page_holds_everything_and_fetches_nothing(draw):
    page = draw(STORED, Query(name=b"q", image="photos/square/0001.png"))
    data = Path("found.html").read_bytes()
    assert not [tag for tag, _ in page.tags if tag in {"script", "link", "iframe", "object", "embed", "base", "form"}]
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on") or name == "style"]
    assert b"://" not in data.replace(b"file://", b"")
    assert b"<script" not in data
    assert b"url(" not in data
    assert b"@import" not in data
    assert {image["src"].split(",")[0] for image in page.all("img")} == {"data:image/webp;base64"}
    assert any("default-src 'none'" in (meta.get("content") or "") for meta in page.all("meta"))


def test_every_picture_is_described(draw):
    page = draw(STORED)
    alts = [image["alt"] for image in page.all("img")]
    assert len(alts) == len(set(alts)) == 9
    assert alts[0] == "The query: 0000.png"
    assert page.all("html")[0]["lang"] == "en"


def test_links_are_absolute_whatever_the_working_directory(draw, tmp_path, monkeypatch):
    monkeypatch.chdir("photos")
    links = [link["href"] for link in draw(Query(name=b"q", image="circle/../circle/0000.png")).all("a")]
    paths = [unquote_to_bytes(link.removeprefix("file://")) for link in links]
    assert len(paths) == 10 - 1
    assert all(os.path.isfile(path) and path.startswith(os.fsencode(tmp_path)) and b".." not in path for path in paths)


def test_a_link_to_a_folder_is_followed_before_dots(draw, tmp_path):
    (tmp_path / "deep/er").mkdir(parents=True)
    draw_picture("circle", 5).save(tmp_path / "deep/own.png")
    os.symlink(tmp_path / "deep/er", "link")
    page = draw(Query(name=b"q", image="link/../own.png"), top_k=1)
    assert page.all("a")[0]["href"] == (tmp_path.resolve() / "deep/own.png").as_uri()


def test_folders_are_told_relative_to_the_root(draw, tmp_path):
    draw_picture("circle", 5).save("own.png")
    page = draw(Query(name=b"q", image="own.png"))
    assert {"circle", "stripes", "square", "checker", str(tmp_path)} <= set(page.texts)
    assert f"8 pictures in {tmp_path / 'photos'}, 64-bit codes" in page.texts


def test_the_answer_is_summed_up(draw):
    page = draw(Query(name=b"5a", code="5a" * 8), Query(name=b"a5", code="a5" * 8, image=None))
    distances = [int(text) for text in page.texts if text.isdigit()]
    first, second = distances[:8], distances[8:]
    assert f"8 matches, {min(first)} to {max(first)} of 64 bits apart" in page.texts
    assert f"8 matches, {min(second)} to {max(second)} of 64 bits apart" in page.texts
    assert page.texts.count("a code, not a picture") == 2


def test_one_match_is_no_range(draw):
    page = draw(STORED, top_k=1)
    assert "1 match, 0 of 64 bits apart" in page.texts
    assert len(page.classed("same")) == 1


def test_nothing_found_is_told(draw):
    page = draw(STORED, exclude=["*"])
    assert "nothing found" in page.texts


def test_a_match_that_is_gone_or_damaged_is_the_reason(draw):
    Path("photos/circle/0001.png").unlink()
    Path("photos/square/0001.png").write_bytes(Path("photos/square/0000.png").read_bytes()[:100])
    Path("photos/square/0000.png").write_text("no picture")
    page = draw(STORED)
    assert [reason["aria-label"].split(", ")[-1] for reason in page.classed("missing")].count("no such file") == 1
    assert {"no such file", "damaged or cut short", "not a picture"} <= set(page.texts)
    assert len(page.all("img")) == 9 - 3


def test_a_query_that_cannot_be_read_stands_there_with_the_reason(draw):
    page = draw(Query(name=b"q", image="nowhere.jpg"), STORED)
    assert {"no such file", "not answered", "nowhere.jpg"} <= set(page.texts)
    assert len(page.all("section")) == 2


def test_a_stream_is_drawn_too(file, weights_path):
    query = Query(name=b"-", image=io.BytesIO(Path("photos/circle/0000.png").read_bytes()))
    (answer,) = answer_on_sheet("found.html", FileGallery(file), [query], QueryOptions(weights=str(weights_path)))
    page = Page(Path("found.html").read_bytes())
    assert answer.matches[0].distance == 0
    assert len(page.all("img")) == 9
    assert "standard input" in page.texts


def test_more_matches_than_are_drawn_at_a_time(draw, monkeypatch):
    monkeypatch.setattr(job, "_AHEAD", 3)
    assert len(draw(STORED).all("img")) == 9


def test_equal_answers_give_equal_pages_and_a_sheet_may_be_replaced(draw):
    draw(STORED)
    first = Path("found.html").read_bytes()
    draw(STORED)
    assert Path("found.html").read_bytes() == first


def test_an_empty_file_may_be_replaced_and_another_may_not(draw, tmp_path):
    Path("found.html").touch()
    draw(STORED)
    Path("mine.html").write_text("<!doctype html>precious")
    with pytest.raises(DrhnError, match=r"mine.html: another file is in the place"):
        draw(STORED, path="mine.html")
    assert Path("mine.html").read_text() == "<!doctype html>precious"
    assert not list(tmp_path.glob(".drhn-*"))


@pytest.mark.parametrize("path", ["found.pdf", "found", "html", b"found.jpg"])
def test_another_suffix_is_refused(draw, path):
    with pytest.raises(DrhnError, match=r"no kind of sheet \(expected a name that ends in \.html or \.png\)"):
        draw(STORED, path=path)


@pytest.mark.parametrize("path", ["found.png", "found.PNG"])
def test_a_contact_sheet_is_a_picture_and_replaces_only_its_like(file, path):
    for n_queries in (1, 2):
        list(answer_on_sheet(path, FileGallery(file), [STORED] * n_queries, QueryOptions()))
        with Image.open(path) as image:
            assert (image.format, image.height > 500 * n_queries) == ("PNG", True)
    photo = "photos/circle/0001.png"
    before = Path(photo).read_bytes()
    with pytest.raises(DrhnError, match="another file is in the place"):
        list(answer_on_sheet(photo, FileGallery(file), [STORED], QueryOptions()))
    assert Path(photo).read_bytes() == before


@pytest.mark.parametrize("path", ["nowhere/found.html", "folder.html"])
def test_a_place_that_cannot_be_written_is_an_error(draw, path):
    Path("folder.html").mkdir()
    with pytest.raises(DrhnError, match="cannot write the sheet"):
        draw(STORED, path=path)


def test_who_stops_early_leaves_what_was_there(file, tmp_path):
    answers = answer_on_sheet("found.html", FileGallery(file), [STORED, STORED], QueryOptions())
    next(answers)
    answers.close()
    assert not Path("found.html").exists()
    assert not list(tmp_path.glob(".drhn-*"))


@pytest.mark.parametrize(
    ("size", "expected"),
    [((1000, 500), (400, 200)), ((50, 3000), (7, 400)), ((4000, 2), (400, 1)), ((20, 30), (20, 30))],
)
def test_thumbnails_are_small_and_keep_their_shape(tmp_path, size, expected):
    draw_gradient(*size).save(tmp_path / "a.png")
    assert Image.open(io.BytesIO(make_thumbnail(tmp_path / "a.png"))).size == expected
    assert max(expected) <= MAX_SIDE


def test_thumbnails_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    draw_gradient(60, 30).save(tmp_path / "a.jpg", exif=exif)
    small = Image.open(io.BytesIO(make_thumbnail(tmp_path / "a.jpg")))
    assert small.size == (30, 60)
    assert not small.getexif()


def test_thumbnails_keep_the_limits_of_decoding(tmp_path):
    Image.new("L", (10_000, 10_000)).save(tmp_path / "bomb.png")
    with pytest.raises(ImageError, match="too many pixels for so small a file"):
        make_thumbnail(tmp_path / "bomb.png")


def test_without_webp_thumbnails_are_jpeg(tmp_path, monkeypatch):
    monkeypatch.setattr("drhn_cli.sheets.sheet._FORMAT", "JPEG")
    draw_gradient(60, 30).save(tmp_path / "a.png")
    page = Page(page_of(section_of(b"a", picture=make_thumbnail(tmp_path / "a.png"))))
    image = page.all("img")[0]
    assert (image["width"], image["height"]) == ("60", "30")
    kind, data = image["src"].split(",")
    assert kind == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).format == "JPEG"
