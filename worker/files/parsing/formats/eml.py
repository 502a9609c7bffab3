"""Mails: who wrote to whom, the text, and the names of the attachments."""

from __future__ import annotations

from email import message_from_bytes, policy
from email.message import EmailMessage, MIMEPart

from worker.files.parsing.decoding import declared_encoding, decode
from worker.files.parsing.markdown import Markdown, one_line
from worker.files.parsing.source import Extracted, Source

HEADERS = ("From", "To", "Cc", "Date")


def read(source: Source) -> Extracted:
    """Return the text of a mail, or its HTML if it has no plain text."""
    mail = message_from_bytes(source.data(), policy=policy.default)
    subject, author = _header(mail, "Subject"), _header(mail, "From")
    markdown = Markdown(source.options)
    markdown.heading(1, subject)
    headers = ((name, _header(mail, name)) for name in HEADERS)
    markdown.text("\n".join(f"{name}: {value}" for name, value in headers if value))
    _write_body(markdown, mail, source.options.fallback_encoding)
    attached = [one_line(part.get_filename() or "") for part in mail.iter_attachments()]
    if any(attached):
        markdown.text("Attachments: " + ", ".join(filter(None, attached)))
    return Extracted(markdown.content(), title=subject, author=author)


def _header(mail: EmailMessage, name: str) -> str:
    return one_line(str(mail.get(name, "")))


def _write_body(markdown: Markdown, mail: EmailMessage, fallback: str) -> None:
    body = mail.get_body(preferencelist=("plain", "html"))
    if body is None:
        return
    data = body.get_payload(decode=True)
    text = _decoded(data if isinstance(data, bytes) else b"", body, fallback)
    if body.get_content_subtype() == "html":
        from worker.files.parsing.formats.html import write_html

        write_html(markdown, text)
    else:
        markdown.text(text)


def _decoded(data: bytes, body: MIMEPart, fallback: str) -> str:
    """Decode a part as it says, or if it is wrong, as a file is decoded."""
    try:
        return data.decode(str(body.get_content_charset("utf-8"))).replace("\r\n", "\n")
    except (LookupError, UnicodeError, ValueError):
        return decode(data, fallback, declared_encoding(data)).text
