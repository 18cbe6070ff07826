"""Markdown to one self-contained HTML file: pictures inside, no script, no request to anywhere."""

from __future__ import annotations

import base64
import re
from html import escape
from pathlib import Path

from markdown_it import MarkdownIt

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1d1d1f; background: #f4f5f7; margin: 0; }
main { max-width: 62rem; margin: 2rem auto; padding: 1.5rem 2.5rem 2.5rem; background: #fff; border-radius: 8px;
  box-shadow: 0 1px 4px #0002; }
h1 { font-size: 1.6rem; margin: .2rem 0 1rem; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; padding-bottom: .25rem; border-bottom: 1px solid #e3e5e8; }
blockquote { margin: 0 0 1.2rem; padding: .9rem 1.2rem; border-left: 6px solid var(--tone); background: var(--pale);
  border-radius: 0 6px 6px 0; }
blockquote p { margin: .25rem 0; }
blockquote p:first-child { font-size: 1.2rem; }
table { border-collapse: collapse; font-size: .875rem; margin: .6rem 0 1rem; display: block; overflow-x: auto; }
th, td { padding: .35rem .8rem; text-align: left; border-bottom: 1px solid #e3e5e8; font-variant-numeric: tabular-nums;
  white-space: nowrap; }
td:last-child { white-space: normal; min-width: 9rem; }
th { background: #f4f5f7; font-weight: 600; }
img { max-width: 100%; display: block; margin: .8rem 0; }
code { font-size: .85em; background: #f4f5f7; padding: .1rem .3rem; border-radius: 4px; overflow-wrap: anywhere; }
pre { background: #f4f5f7; padding: .6rem .9rem; border-radius: 6px; overflow-x: auto; }
pre code { padding: 0; overflow-wrap: normal; }
"""
TONES = {"good": ("#009e73", "#e8f6f1"), "calm": ("#6b6b6b", "#f2f2f3"), "bad": ("#d55e00", "#fdf0e7")}


def page(markdown: str, folder: Path, title: str, tone: str) -> str:
    """The document.

    Args:
        markdown: its text; raw HTML in it stays text.
        folder: where its pictures lie, by the relative paths it names.
        title: of the browser's tab.
        tone: good, calm or bad: colour of the quote at its head.
    """
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)
    body = re.sub(r'src="([^":]+\.png)"', lambda found: f'src="{_inlined(folder / found[1])}"', body)
    colour, pale = TONES[tone]
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{STYLE}:root {{ --tone: {colour}; --pale: {pale}; }}</style>\n</head>\n"
        f"<body><main>\n{body}</main></body>\n</html>\n"
    )


def _inlined(picture: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"
