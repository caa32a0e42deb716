"""What the site needs beyond the pages: CONTRIBUTING.md as a page, and links to files of the repository as plain text."""

import re
from pathlib import Path
from posixpath import dirname, join, normpath, relpath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)#:\s]+)(#[^)]*)?\)")
CONTRIBUTING = "contributing.md"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds CONTRIBUTING.md, which a forge wants at the top of the repository."""
    text = (ROOT / "CONTRIBUTING.md").read_text().replace("](docs/", "](").replace("](LICENSE)", "](../LICENSE)")
    files.append(File.generated(config, CONTRIBUTING, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns links that leave `docs/` into their text, if the file exists; a broken one stays, and fails the strict build."""
    here = dirname(page.file.src_uri)

    def rewrite(match: re.Match[str]) -> str:
        text, link, anchor = match.group(1), match.group(2), match.group(3) or ""
        target = normpath(join("docs", here, link))
        if target == "CONTRIBUTING.md":
            return f"[{text}]({relpath(CONTRIBUTING, here or '.')}{anchor})"
        if target.startswith("docs/") or not (ROOT / target).exists():
            return match.group(0)
        return text if text.strip("`") == target else f"{text} (`{target}`)"

    return LINK.sub(rewrite, markdown)
