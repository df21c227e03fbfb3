"""Draws the documentation's two pictures from the code: the asset graph, and which folder imports which.

`make reference` writes them; `test_reference` says when they are stale.
"""

from collections.abc import Callable, Mapping
from html import escape

from migration_assets.definitions import build_defs
from migration_assets_tests.documentation.reference import PROJECT
from migration_assets_tests.test_architecture import FILES, HOUSE, ROOT, imported, layer_of, parsed

PICTURES = PROJECT / "docs" / "images"
_STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#263238}.small{font-size:11px;fill:#546e7a}"
    "rect{fill:#eceff1;stroke:#607d8b}path{fill:none;stroke:#607d8b;stroke-width:1.3}"
)
_GROUPS = {
    "1_prepare": "#e3f2fd",
    "2_migrate": "#e8f5e9",
    "3_follow": "#fff8e1",
    "4_approve": "#fce4ec",
    "5_archive": "#ede7f6",
    "6_cut_over": "#ffe0b2",
}


def _svg(width: int, height: int, title: str, *parts: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img"'
        f' aria-label="{escape(title)}">'
        f'<style>{_STYLE}</style><rect width="{width}" height="{height}" style="fill:#fff;stroke:none"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def assets_picture() -> str:
    """The assets from left to right, each behind what it needs; the colour is the asset's group."""
    graph = build_defs().get_repository_def().asset_graph
    needs = {
        key.to_user_string(): sorted(parent.to_user_string() for parent in graph.get(key).parent_keys)
        for key in graph.get_all_asset_keys()
    }

    def depth(name: str) -> int:
        return 1 + max((depth(parent) for parent in needs[name]), default=-1)

    columns: dict[int, list[str]] = {}
    groups = {key.to_user_string(): str(graph.get(key).group_name) for key in graph.get_all_asset_keys()}
    for name in sorted(needs, key=lambda one: (depth(one), groups[one], one)):
        columns.setdefault(depth(name), []).append(name)
    wide, high, gap = 186, 44, 22
    # Two rows of columns: a graph of ten steps is too long for a page.
    half = (len(columns) + 1) // 2
    band = max(len(names) for names in columns.values()) * (high + gap) + 30
    places: dict[str, tuple[int, int]] = {}
    for column, names in columns.items():
        for row, name in enumerate(names):
            places[name] = (20 + (column % half) * (wide + 44), 20 + (column // half) * band + row * (high + gap))
    parts: list[str] = []
    for name, parents in sorted(needs.items()):
        x, y = places[name]
        for parent in parents:
            px, py = places[parent]
            start, end = (px + wide, py + high // 2), (x, y + high // 2)
            if end[0] > start[0]:
                middle = (start[0] + end[0]) // 2
                way = f"M{start[0]} {start[1]}C{middle} {start[1]} {middle} {end[1]} {end[0]} {end[1]}"
            else:  # down into the next row of columns
                above, below, px, x_in = py + high, y, px + wide // 2, x + wide // 2
                way = f"M{px} {above}C{px} {above + 60} {x_in} {below - 60} {x_in} {below}"
            parts.append(f'<path d="{way}" marker-end="url(#head)"/>')
    for name, (x, y) in sorted(places.items()):
        node = graph.get(next(key for key in graph.get_all_asset_keys() if key.to_user_string() == name))
        kind = type(node.partitions_def).__name__
        per = {"NoneType": "", "MultiPartitionsDefinition": "per week"}.get(kind, "per quarter")
        fill = _GROUPS[str(node.group_name)]
        parts.append(
            f'<rect x="{x}" y="{y}" width="{wide}" height="{high}" rx="7" style="fill:{fill}"/>'
            f'<text x="{x + 10}" y="{y + (19 if per else 27)}">{name}</text>'
            f'<text class="small" x="{x + 10}" y="{y + 35}">{per}</text>'
        )
    head = (
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0 0L8 4L0 8z" style="fill:#607d8b;stroke:none"/></marker></defs>'
    )
    return _svg(20 + half * (wide + 44), 20 + 2 * band, "The asset graph", head, *parts)


def imports_picture() -> str:
    """A square for each pair of folders of which the one of the row imports the one of the column."""
    found: set[tuple[str, str]] = set()
    for path in FILES:
        here = layer_of(path)
        for name in imported(parsed(path)):
            package, _, rest = name.partition(".")
            there = rest.split(".")[0]
            if package == ROOT.name and there and here not in {there, "__init__"}:
                found.add((here, there))
    size, left, top = 26, 120, 110
    names = list(HOUSE)
    parts: list[str] = []
    for place, name in enumerate(names):
        middle = top + place * size + size // 2
        parts.append(f'<text x="{left - 8}" y="{middle + 4}" text-anchor="end">{name}</text>')
        across = left + place * size + size // 2
        parts.append(f'<text transform="translate({across + 4} {top - 8}) rotate(-60)">{name}</text>')
    for row, here in enumerate(names):
        for column, there in enumerate(names):
            x, y = left + column * size, top + row * size
            shade = "#cfd8dc" if row == column else "#fff"
            parts.append(
                f'<rect x="{x}" y="{y}" width="{size}" height="{size}" style="fill:{shade};stroke:#eceff1"/>'
                + (
                    f'<rect x="{x + 3}" y="{y + 3}" width="{size - 6}" height="{size - 6}" rx="4"'
                    ' style="fill:#546e7a;stroke:none"/>'
                    if (here, there) in found
                    else ""
                )
            )
    said = "Rows import columns. Nothing lies right of the diagonal: imports go down only."
    foot = top + len(names) * size + 24
    parts.append(f'<text class="small" x="20" y="{foot}">{said}</text>')
    return _svg(max(left + len(names) * size + 70, 620), foot + 16, "Which folder imports which", *parts)


FROM_CODE: Mapping[str, Callable[[], str]] = {"assets.svg": assets_picture, "imports.svg": imports_picture}


def main() -> None:
    """Write both."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    for name, draw in FROM_CODE.items():
        (PICTURES / name).write_text(draw())


if __name__ == "__main__":
    main()
