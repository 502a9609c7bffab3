"""What becomes of files: their text, what they say about themselves, or why they have no text."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import datetime
from email.message import EmailMessage
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

from tests.nasty_files import (
    MB,
    WORD,
    archive,
    bomb,
    book,
    office,
    paragraph,
    pdf,
    protected_pdf,
    word,
    write,
)
from worker.chunking.options import SplitOptions
from worker.chunking.splitter import split
from worker.errors import ParseFailure, SettingsError
from worker.files.parsing.options import ParseOptions
from worker.files.parsing.pool import ParserPool
from worker.files.parsing.results import ParsedFile

Parse = Callable[[str, str | bytes], ParsedFile]
Failure = Callable[[str, str | bytes], ParseFailure]


@pytest.fixture(scope="module")
def pool() -> Iterator[ParserPool]:
    pool = ParserPool(ParseOptions())
    yield pool
    pool.close()


@pytest.fixture
def parse(pool: ParserPool, tmp_path: Path) -> Parse:
    """Parses a file with this name and content."""
    return lambda name, content: pool.parse(write(tmp_path, name, content), name)


@pytest.fixture
def failure(parse: Parse) -> Failure:
    """Returns the error of a file with this name and content."""

    def failure(name: str, content: str | bytes) -> ParseFailure:
        with pytest.raises(ParseFailure) as caught:
            parse(name, content)
        assert caught.value.cause.isprintable()
        assert caught.value.hint
        return caught.value

    return failure


def workbook(**sheets: list[list[Any]]) -> bytes:
    """A workbook with the rows of these sheets, by their names."""
    from xlsxwriter import Workbook  # imported late, because it takes a while

    file = BytesIO()
    with Workbook(file, {"default_date_format": "yyyy-mm-dd"}) as written:
        for name, rows in sheets.items():
            sheet = written.add_worksheet(name)
            for number, row in enumerate(rows):
                sheet.write_row(number, 0, row)
        written.set_properties({"title": "A Title", "author": "Ann"})
    return file.getvalue()


def saved(document: Any) -> bytes:
    """The bytes of a document of a library that saves into a file."""
    file = BytesIO()
    document.save(file)
    return file.getvalue()


# Formats


def test_a_pdf_has_its_text_page_by_page(parse: Parse) -> None:
    parsed = parse("a.pdf", pdf("one\nline", "", "three", title="A Title", author="Ann"))
    assert parsed == ParsedFile(
        content="one\nline\n\n\f\n\f\nthree",
        mime="application/pdf",
        title="A Title",
        author="Ann",
        pages=3,
    )


def test_each_passage_of_a_pdf_of_300_pages_knows_its_page(parse: Parse) -> None:
    pages = [f"Page number {number}.\n" + "Some more text. " * 60 for number in range(1, 301)]
    content = parse("a.pdf", pdf(*pages)).content
    found = [
        (chunk.page, content[chunk.first_char : chunk.last_char])
        for chunk in split(content, SplitOptions(chunk_size=600))
    ]
    assert all(f"Page number {page}." in text for page, text in found if "number" in text)
    assert {page for page, text in found if "number" in text} == set(range(1, 301))


def test_text_of_a_pdf_is_never_taken_for_markdown(parse: Parse) -> None:
    content = parse("a.pdf", pdf("# of users\n------\n~~~\nend")).content
    assert {chunk.heading_path for chunk in split(content)} == {""}
    assert content == "\\# of users\n\\------\n\\~~~\nend"


def test_a_word_document_keeps_headings_lists_and_tables(parse: Parse) -> None:
    import docx

    document = docx.Document()
    document.core_properties.title, document.core_properties.author = "A Title", "Ann"
    document.add_heading("Contract", 0)
    document.add_heading("Notice period", 2)
    document.add_paragraph("Three months.")
    table = document.add_table(2, 2)
    for number, text in enumerate(("what", "how | when", "notice", "in\nwriting")):
        table.cell(number // 2, number % 2).text = text
    parsed = parse("a.docx", saved(document))
    assert (parsed.title, parsed.author, parsed.pages) == ("A Title", "Ann", None)
    assert parsed.content == (
        "# Contract\n\n## Notice period\n\nThree months.\n\n"
        "| what | how \\| when |\n|---|---|\n| notice | in writing |"
    )


def test_a_word_document_reads_as_with_all_changes_accepted(parse: Parse) -> None:
    inserted = f"<w:ins>{paragraph('new')[5:-6]}</w:ins>"
    deleted = "<w:del><w:r><w:delText>old</w:delText></w:r></w:del>"
    form = f"<w:sdt><w:sdtContent>{paragraph('of a form')}</w:sdtContent></w:sdt>"
    box = (
        f"<w:p><w:r><w:pict><w:txbxContent>{paragraph('box')}</w:txbxContent></w:pict></w:r></w:p>"
    )
    body = f"<w:p>{inserted}{deleted}</w:p>{form}{box}"
    assert parse("a.docx", archive(word(body))).content == "new\n\nof a form\n\nbox"


def test_a_word_document_has_its_footnotes_at_the_end(parse: Parse) -> None:
    entries = word(paragraph("text"))
    entries["word/footnotes.xml"] = (
        f'<w:footnotes xmlns:w="{WORD}"><w:footnote>{paragraph("a note")}</w:footnote>'
        "</w:footnotes>"
    )
    entries["word/_rels/document.xml.rels"] = (
        str(entries["_rels/.rels"])
        .replace(
            "officeDocument/2006/relationships/officeDocument",
            "officeDocument/2006/relationships/footnotes",
        )
        .replace("word/document.xml", "footnotes.xml")
    )
    assert parse("a.docx", archive(entries)).content == "text\n\na note"


def test_a_presentation_has_a_page_for_each_slide_with_tables_and_notes(parse: Parse) -> None:
    import pptx

    presentation = pptx.Presentation()
    first = presentation.slides.add_slide(presentation.slide_layouts[1])
    first.shapes.title.text = "Plan"
    first.placeholders[1].text = "one\ntwo"
    first.notes_slide.notes_text_frame.text = "say this"
    second = presentation.slides.add_slide(presentation.slide_layouts[6])
    group = second.shapes.add_group_shape()
    group.shapes.add_textbox(0, 0, 9, 9).text_frame.text = "in a group"
    table = second.shapes.add_table(2, 2, 0, 0, 9, 9).table
    for number in range(4):
        table.cell(number // 2, number % 2).text = str(number)
    parsed = parse("a.pptx", saved(presentation))
    assert parsed.pages == 2
    assert parsed.content == (
        "# Plan\n\none\ntwo\n\n## Notes\n\nsay this\n\n\f\n"
        "in a group\n\n| 0 | 1 |\n|---|---|\n| 2 | 3 |"
    )


def test_a_workbook_has_a_page_for_each_sheet(parse: Parse) -> None:
    prices: list[list[Any]] = [
        ["name", "amount", "day"],
        ["a", 1, datetime(2026, 1, 2)],
        [],
        ["b", 2.5],
    ]
    parsed = parse("a.xlsx", workbook(Prices=prices, Empty=[], Far=[[], ["", True]]))
    assert (parsed.title, parsed.author, parsed.pages) == ("A Title", "Ann", 3)
    assert parsed.content == (
        "# Prices\n\n## name, amount, day\n\n| name | amount | day |\n|---|---|---|\n"
        "| a | 1 | 2026-01-02 |\n| b | 2.5 |\n\n\f\n\f\n# Far\n\n## TRUE\n\n| TRUE |\n|---|"
    )


def test_no_row_is_lost_of_a_sheet_that_names_a_wrong_size(parse: Parse) -> None:
    with ZipFile(BytesIO(workbook(Rows=[[f"row {number}"] for number in range(100)]))) as file:
        entries: dict[str, str | bytes] = {name: file.read(name) for name in file.namelist()}
    sheet = entries["xl/worksheets/sheet1.xml"]
    assert isinstance(sheet, bytes)
    assert b'<dimension ref="A1:A100"' in sheet
    entries["xl/worksheets/sheet1.xml"] = sheet.replace(b"A1:A100", b"A1")
    assert "row 99" in parse("a.xlsx", archive(entries)).content


def test_html_keeps_what_is_shown(parse: Parse) -> None:
    parsed = parse(
        "a.html",
        """<title>A Title</title><meta name=Author content=Ann><body><h1>One <b>bold</b></h1>
        <p>A <i>line</i><br>and more<script>no()</script><p># no heading
        <ul><li>a<li>b<ol><li>c<li>d</ol></ul>
        <table><caption>Of</caption><tr><th>x<th>y<tr><td>1<td>2<br>3</table>
        <table><tr><td><h2>Layout</h2>text</table><pre>code\n  here</pre>end""",
    )
    assert (parsed.title, parsed.author, parsed.encoding) == ("A Title", "Ann", "utf-8")
    assert parsed.content == (
        "# One bold\n\nA line\nand more\n\n\\# no heading\n\n- a\n\n- b\n\n1. c\n\n2. d\n\n"
        "Of\n\n| x | y |\n|---|---|\n| 1 | 2 3 |\n\n## Layout\n\ntext\n\n"
        "```\ncode\n  here\n```\n\nend"
    )


def test_an_epub_is_in_the_order_of_its_spine(parse: Parse) -> None:
    chapters = {"z.xhtml": "<h1>First</h1><p>one</p>", "a.xhtml": "<h1>Second</h1><p>two</p>"}
    parsed = parse("a.epub", archive(book(chapters)))
    assert (parsed.title, parsed.author) == ("A Book", "Ann")
    assert parsed.content == "# First\n\none\n\n# Second\n\ntwo"


def test_a_mail_has_its_headers_its_text_and_the_names_of_its_attachments(parse: Parse) -> None:
    mail = EmailMessage()
    mail["Subject"], mail["From"], mail["To"] = "Größe", "Ann <ann@example.com>", "bob@example.com"
    mail["Date"] = "Mon, 02 Feb 2026 10:00:00 +0000"
    mail.set_content("Hello\n\nBob")
    mail.add_alternative("<p>Hello <b>Bob</b></p>", subtype="html")
    mail.add_attachment(b"%PDF-", maintype="application", subtype="pdf", filename="offer.pdf")
    parsed = parse("a.eml", mail.as_bytes())
    assert (parsed.title, parsed.author) == ("Größe", "Ann <ann@example.com>")
    assert parsed.content == (
        "# Größe\n\nFrom: Ann <ann@example.com>\nTo: bob@example.com\n"
        "Date: Mon, 02 Feb 2026 10:00:00 +0000\n\nHello\n\nBob\n\nAttachments: offer.pdf"
    )


def test_a_mail_without_plain_text_has_that_of_its_html(parse: Parse) -> None:
    mail = "From: a@b.c\nSubject: x\nContent-Type: text/html; charset=latin-1\n\n<p>Gr\xf6\xdfe</p>"
    assert parse("a.eml", mail.encode("latin-1")).content.endswith("Größe")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'name,what\n"Ann, B.","a|b"\n'),
        ("a.csv", 'name;what\n"Ann, B.";a|b\n'),
        ("a.tsv", "name\twhat\nAnn, B.\ta|b\n"),
    ],
)
def test_a_table_has_the_names_of_its_columns_above_it(
    parse: Parse, name: str, content: str
) -> None:
    assert parse(name, content).content == (
        "# name, what\n\n| name | what |\n|---|---|\n| Ann, B. | a\\|b |"
    )


def test_no_row_of_a_table_is_cut_and_each_passage_has_the_names_of_its_columns(
    parse: Parse,
) -> None:
    rows = [f"row {number},{'word ' * 9}" for number in range(20_000)]
    content = parse("a.csv", "\n".join(["name,words", *rows])).content
    chunks = list(split(content))
    assert {chunk.heading_path for chunk in chunks} == {"name, words"}
    for chunk in chunks[1:]:
        lines = content[chunk.first_char : chunk.last_char].splitlines()
        assert all(line.startswith("| row ") and line.endswith(" |") for line in lines)
    assert content.count("| row ") == 20_000


def test_json_is_indented_and_what_is_none_is_kept(parse: Parse) -> None:
    assert parse("a.json", '{"a":[1,"\\u00df"],"b":"\\ud800"}').content == (
        '```json\n{\n "a": [\n  1,\n  "ß"\n ],\n "b": "\ufffd"\n}\n```'
    )
    assert parse("a.json", "// a comment\n{}").content == "```json\n// a comment\n{}\n```"
    assert parse("a.json", '{"a":1,"a":2}').content == '```json\n{"a":1,"a":2}\n```'
    assert parse("a.jsonl", '{"a":1}\nno json\n').content == (
        '```json\n{\n "a": 1\n}\n\nno json\n```'
    )


def test_code_is_a_fenced_block_that_nothing_in_it_ends(parse: Parse) -> None:
    parsed = parse("a.py", 'x = """\n```\n"""\n\f\ndef f(): ...\n')
    assert parsed.mime == "text/x-python"
    assert parsed.content == '````python\nx = """\n```\n"""\n\ndef f(): ...\n````'


@pytest.mark.parametrize("name", ["Makefile", "Dockerfile"])
def test_code_is_known_by_a_name_without_a_dot(parse: Parse, name: str) -> None:
    assert parse(name, "all:\n").mime == f"text/x-{name.lower()}"


def test_text_is_kept_as_it_is(parse: Parse) -> None:
    text = "Title\n=====\n\n# a\n\n.. note:: b\n"
    for name in ("a.txt", "a.rst", "a.md", "README", "a.unknown"):
        assert parse(name, text).content == text
    assert parse("a.txt", "one\r\ntwo\rthree").content == "one\ntwo\nthree"


def test_a_form_feed_ends_a_page_of_text(parse: Parse) -> None:
    assert parse("a.txt", "one\ftwo\f\n").pages == 2
    assert parse("a.txt", "one").pages is None


def test_the_title_of_markdown_is_its_first_heading_or_in_its_front_matter(parse: Parse) -> None:
    assert parse("a.md", "# One #\ntext").title == "One"
    assert parse("a.md", '---\nx: 1\ntitle: "Two"\n---\n# One').title == "Two"
    assert parse("a.md", "text\n\n# Later").title is None
    assert parse("a.md", "---\nx: 1\n---\ntitle: no").title is None


# Types and encodings


@pytest.mark.parametrize(
    ("name", "content", "mime"),
    [
        ("a.txt", pdf("text"), "application/pdf"),
        ("a.docx", pdf("text"), "application/pdf"),
        (
            "a.zip",
            archive(word(paragraph("text"))),
            "application/vnd.openxmlformats-officedocument",
        ),
        ("a.pdf", archive(book({"a.xhtml": "text"})), "application/epub+zip"),
        ("a.pdf", "text", "text/plain"),
        ("a.xls", "<!-- by a program -->\n<HTML><p>text", "text/html"),
        ("a", "Return-Path: <a@b.c>\nFrom: a@b.c\n\ntext", "message/rfc822"),
        ("a.json.md", "text", "text/markdown"),
        ("notes-on-%PDF-.txt", "text about %PDF-1.4", "text/plain"),
    ],
)
def test_a_wrong_extension_is_seen_through(
    parse: Parse, name: str, content: str | bytes, mime: str
) -> None:
    parsed = parse(name, content)
    assert parsed.mime.startswith(mime)
    assert "text" in parsed.content


@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        ("Größe".encode(), "utf-8"),
        ("Größe".encode("utf-8-sig"), "utf-8"),
        ("\ufeffGröße 漢字".encode("utf-16-le"), "utf-16-le"),
        ("\ufeffGröße 漢字".encode("utf-16-be"), "utf-16-be"),
        ("\ufeffGröße".encode("utf-32-le"), "utf-32-le"),
        ("Größe".encode("utf-16-le"), "utf-16-le"),
        ("Größe".encode("utf-16-be"), "utf-16-be"),
        ("Größe € 1".encode("cp1252"), "cp1252"),
        ("Größe é".encode("cp1252"), "cp1252"),
    ],
)
def test_the_encoding_of_a_text_is_found_and_recorded(
    parse: Parse, data: bytes, encoding: str
) -> None:
    parsed = parse("a.txt", data)
    assert parsed.encoding == encoding
    assert "Größe" in parsed.content
    assert "\ufeff" not in parsed.content


def test_html_may_name_its_encoding(parse: Parse) -> None:
    page = '<meta charset="windows-1251"><p>Привет'
    assert parse("a.html", page.encode("cp1251")).content == "Привет"
    page = '<meta charset="punycode"><p>é'
    assert parse("a.html", page.encode("cp1252")).encoding == "cp1252"


def test_the_fallback_encoding_is_configured(tmp_path: Path) -> None:
    pool = ParserPool(ParseOptions(fallback_encoding="shift_jis"))
    parsed = pool.parse(write(tmp_path, "a.txt", "日本語".encode("shift_jis")), "a.txt")
    pool.close()
    assert (parsed.content, parsed.encoding) == ("日本語", "shift_jis")


@pytest.mark.parametrize(
    ("option", "value"),
    [("fallback_encoding", "no such"), ("fallback_encoding", "zip"), ("workers", 0)],
)
def test_an_option_that_cannot_be_used_is_refused(option: str, value: Any) -> None:
    with pytest.raises(SettingsError):
        ParseOptions(**{option: value})


# Files without a text that can be read

LATIN = "é".encode("cp1252")
ENTITIES = '<!DOCTYPE d [<!ENTITY a "text"><!ENTITY b "&a;&a;&a;&a;">]>'
FILES: list[tuple[str, str, Callable[[], str | bytes]]] = [
    ("encrypted", "a.pdf", lambda: protected_pdf("text", "secret", "owner")),
    (
        "encrypted",
        "a.docx",
        lambda: (
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
            + bytes(500)
            + "EncryptedPackage".encode("utf-16-le")
        ),
    ),
    (
        "encrypted",
        "a.epub",
        lambda: archive(
            book(
                {"a.xhtml": "xxx"},
                **{
                    "META-INF/encryption.xml": '<encryption xmlns:e="http://www.w3.org/2001/04/xmlenc#">'
                    '<e:CipherReference URI="OEBPS/a.xhtml"/></encryption>'
                },
            )
        ),
    ),
    ("damaged", "a.pdf", lambda: pdf("text")[:400]),
    ("damaged", "a.pdf", lambda: b"%PDF-1.7\nnothing\n%%EOF"),
    ("damaged", "a.docx", lambda: archive(word(paragraph("text")))[:-60]),
    ("damaged", "a.docx", lambda: archive(word("<w:p>"))),
    ("damaged", "a.docx", lambda: archive(word(paragraph("&b;"), ENTITIES))),
    ("damaged", "a.docx", lambda: bomb("word/document.xml", 64 * MB, declared=MB)),
    ("damaged", "a.xlsx", lambda: bomb("xl/workbook.xml", 64 * MB, declared=MB)),
    ("damaged", "a.pptx", lambda: archive(office("ppt/presentation.xml", "<p/>"))),
    ("damaged", "a.xlsx", lambda: archive(office("xl/workbook.xml", "no xml"))),
    ("damaged", "a.zip", lambda: b"PK\x03\x04" + bytes(100)),
    ("damaged", "a.epub", lambda: archive(book({}, **{"OEBPS/book.opf": f"{ENTITIES}<package/>"}))),
    ("damaged", "a.txt", lambda: "größer, ß".encode()[:-1]),
    ("damaged", "a.txt", lambda: "\ufeffabc".encode("utf-16-le")[:-1]),
    ("no_text", "a.txt", lambda: b""),
    ("no_text", "a.txt", lambda: " \n\f\n"),
    ("no_text", "a.pdf", lambda: pdf("", "")),
    ("no_text", "a.docx", lambda: archive(word(""))),
    ("no_text", "a.xlsx", lambda: workbook(Empty=[])),
    ("no_text", "a.html", lambda: "<script>x</script>"),
    ("no_text", "a.csv", lambda: ",,\n,,\n"),
    ("too_large", "a.docx", lambda: bomb("word/document.xml", 600 * MB)),
    ("too_large", "a.xlsx", lambda: bomb("xl/workbook.xml", 200 * MB)),
    ("too_large", "a.zip", lambda: archive({f"{number}": "" for number in range(10_001)})),
    ("too_large", "a.csv", lambda: "a,b\n" * 600_000),
    ("too_large", "a.txt", lambda: b"a" * 16_000_001),
    ("unsupported", "a.zip", lambda: archive({"../../etc/passwd": "text", "/tmp/slipped": "text"})),
    ("unsupported", "a.doc", lambda: b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500)),
    ("unsupported", "a.rtf", lambda: "{\\rtf1 text}"),
    ("unsupported", "a.txt", lambda: b"text with \0 in it"),
    ("unsupported", "a.txt", lambda: b"\xef\xbb\xbftext with \0 in it"),
    ("unsupported", "a.txt", lambda: LATIN + b"\x01"),
    ("unsupported", "a.txt", lambda: b"text \x81 in no encoding"),
    ("unsupported", "a.png", lambda: b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"),
]


@pytest.mark.parametrize(
    ("error_class", "name", "content"),
    [pytest.param(*each, id=f"{number}-{each[0]}-{each[1]}") for number, each in enumerate(FILES)],
)
def test_a_file_without_text_has_an_error_class_and_a_hint(
    failure: Failure, error_class: str, name: str, content: Callable[[], str | bytes]
) -> None:
    assert failure(name, content()).error_class == error_class


def test_a_pdf_that_only_its_owner_may_change_is_read(parse: Parse) -> None:
    assert parse("a.pdf", protected_pdf("text", "", "owner")).content == "text"


def test_names_in_an_archive_that_lead_out_of_it_are_never_used(parse: Parse) -> None:
    entries = word(paragraph("text")) | {"../../../../../../tmp/slipped": "text"}
    assert parse("a.docx", archive(entries)).content == "text"
    assert not Path("/tmp/slipped").exists()


def test_what_is_no_file_is_unsupported(pool: ParserPool, tmp_path: Path) -> None:
    with pytest.raises(ParseFailure) as caught:
        pool.parse(tmp_path, "folder.pdf")
    assert caught.value.error_class == "unsupported"


def test_the_name_of_a_file_may_be_of_any_bytes(pool: ParserPool, tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.md")
    assert pool.parse(write(tmp_path, name, "# One"), name).title == "One"


def test_a_file_that_is_not_there_is_no_error_of_its_content(
    pool: ParserPool, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError, match=r"a\.txt"):
        pool.parse(tmp_path / "a.txt", "a.txt")


def test_the_largest_file_and_the_longest_text_are_configured(tmp_path: Path) -> None:
    pool = ParserPool(ParseOptions(most_bytes=100, most_characters=10))
    for content in ("x" * 101, "x" * 11, "ß" * 11):
        with pytest.raises(ParseFailure) as caught:
            pool.parse(write(tmp_path, "a.txt", content), "a.txt")
        assert caught.value.error_class == "too_large"
    assert pool.parse(write(tmp_path, "a.txt", "𝄞" * 10), "a.txt").content == "𝄞" * 10
    pool.close()


def test_html_that_takes_too_much_memory_is_too_large(tmp_path: Path) -> None:
    pool = ParserPool(ParseOptions(memory_mb=100))
    with pytest.raises(ParseFailure) as caught:
        pool.parse(write(tmp_path, "a.html", "<b>" * 500_000), "a.html")
    pool.close()
    assert caught.value.error_class == "too_large"


def test_html_may_be_nested_to_any_depth(parse: Parse) -> None:
    depth = 5_000
    assert parse("a.html", "<div>" * depth + "deep").content == "deep"
