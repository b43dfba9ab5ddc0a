"""Hook of mkdocs: links to code lead somewhere in a repository only, so the built pages have plain words there."""

import re


def on_page_markdown(markdown: str, **_: object) -> str:
    return re.sub(r"\[([^\]]+)\]\(\.\./service/[^)]*\)", r"\1", markdown)
