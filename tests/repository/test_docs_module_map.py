"""docs/develop/architecture.md names the folders that services/ has, and no others."""

from __future__ import annotations

from tests.repository.documents import DOCS, ROOT, table_cells

PAGE = (DOCS / "develop" / "architecture.md").read_text()


def test_the_module_map_names_every_folder_of_services() -> None:
    section = PAGE[PAGE.index("## Module map") :].split("\n## ")[0]
    named = [cell.strip("`") for cell in table_cells(section) if cell.startswith("`")]

    assert sorted(named) == sorted(folders())


def test_every_folder_says_in_a_line_what_it_is_for() -> None:
    section = PAGE[PAGE.index("## Module map") :].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]

    assert all(len(row.split("|")) == 4 and row.split("|")[2].strip() for row in rows)


def folders() -> list[str]:
    """Every folder under services/ that holds a file of ours, services/ included."""
    services = ROOT / "services"
    holding = {path.parent for path in services.rglob("*") if path.is_file()}
    ours = {folder for folder in holding if "__pycache__" not in folder.parts}
    return [folder.relative_to(ROOT).as_posix() for folder in ours]
