"""Writes the generated pages of this folder; with `--check`, fails if one of them is stale."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from contract_pages import architecture_page, errors_page, sdn_page
from licences import licences_page

from sordino.report.schema_page import figures_page, schema_files
from sordino.zoo.page import zoo_page
from sordino_compiler.operators_page import operators_page
from sordino_hw.spec.isa_page import isa_page

PAGES: dict[str, Callable[[], str]] = {
    "reference/architecture-fields.md": architecture_page,
    "reference/errors.md": errors_page,
    "reference/figures.md": figures_page,
    "reference/isa.md": isa_page,
    "reference/licences.md": licences_page,
    "reference/operators.md": operators_page,
    "reference/sdn.md": sdn_page,
    "reference/zoo.md": zoo_page,
}
PAGES |= {f"reference/schema/{name}": lambda text=text: text for name, text in schema_files().items()}  # type: ignore[misc]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a page is stale")
    check = parser.parse_args().check
    stale = []
    for name, page in PAGES.items():
        path, text = Path(__file__).parent / name, page()
        if not path.exists() or path.read_text() != text:
            stale.append(name)
            if not check:
                path.parent.mkdir(exist_ok=True)
                path.write_text(text)
    if stale:
        print(f"{'stale, run `make docs`' if check else 'written'}: {', '.join(stale)}")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
