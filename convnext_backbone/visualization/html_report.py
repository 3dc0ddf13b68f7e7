"""Reports as text for a terminal, and as one static web page that opens from a file."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple
from urllib.parse import quote

from ..utils.errors import printable

_MOST_ROWS = 40  # of a table in a terminal


class Table(NamedTuple):
    """A table; the first column has names, the others numbers."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[object]]

    def __str__(self) -> str:
        """Lay it out for a terminal."""
        cells = [[printable(format_cell(cell)) for cell in row] for row in [self.header, *self.rows[:_MOST_ROWS]]]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            '  '.join([row[0].ljust(widths[0]), *(cell.rjust(n) for cell, n in zip(row[1:], widths[1:], strict=True))])
            for row in cells
        ]
        left = len(self.rows) - _MOST_ROWS
        return '\n'.join([self.title, *(f'  {line}' for line in lines), *[f'  ... and {left} more'] * (left > 0)])


class Figure(NamedTuple):
    """A picture of the page.

    Attributes:
        picture: Its file, relative to the page.
        caption: Lines below it.
        marks: For each filter of the page, the places of the options that it has.
    """

    picture: str
    caption: Sequence[str]
    marks: Mapping[str, Sequence[int]]


def format_cell(cell: object) -> str:
    """A number for people: few digits, shares in percent by the caller; nothing for None."""
    if cell is None or (isinstance(cell, float) and not math.isfinite(cell)):
        return '-'
    return f'{cell:.3g}' if isinstance(cell, float) else str(cell)


def make_page(
    title: str,
    notes: Sequence[str],
    problems: Sequence[tuple[str, str, str]],
    advice: Sequence[str],
    tables: Sequence[Table],
    figures: Sequence[Figure],
    filters: Mapping[str, Sequence[str]],
) -> str:
    """Make a page with all its style and script inside; only the pictures lie beside it.

    Args:
        title: Of the page.
        notes: Lines below it.
        problems: Severity, name and example of each; their order is that of the filter ``problem``.
        advice: Sentences.
        tables: In their order.
        figures: The pictures, of which the filters show some.
        filters: By name, the options that a person chooses from.
    """
    parts = [f'<h1>{escape(title)}</h1>', *(f'<p>{escape(note)}</p>' for note in notes)]
    parts += ['<h2>Problems</h2>', '' if problems else '<p>None were found.</p>', '<ul class="problems">']
    for place, (severity, name, example) in enumerate(problems):
        shown = any(place in figure.marks.get('problem', ()) for figure in figures)
        link = f' <a href="#pictures" data-problem="{place}">pictures</a>' if shown else ''
        parts.append(
            f'<li class="{escape(severity)}"><b>{escape(severity)}: {escape(name)}</b>{link}<br>{escape(example)}</li>'
        )
    parts += ['</ul>', '<h2>Recommendations</h2>', '<ul>', *(f'<li>{escape(one)}</li>' for one in advice), '</ul>']
    parts += map(_make_table, tables)
    parts += ['<h2 id="pictures">Pictures</h2>', '<p class="filters">', *map(_make_filter, filters, filters.values())]
    parts += [
        f'<output>{len(figures)}</output> of {len(figures)}</p>',
        '<main>',
        *map(_make_figure, figures),
        '</main>',
    ]
    return _PAGE.format(title=escape(title), body='\n'.join(parts))


def _make_table(table: Table) -> str:
    head = ''.join(f'<th>{escape(name)}</th>' for name in table.header)
    rows = [''.join(f'<td>{escape(format_cell(cell))}</td>' for cell in row) for row in table.rows]
    body = '\n'.join(f'<tr>{row}</tr>' for row in rows)
    many = len(table.rows) > _MOST_ROWS
    return (
        f'<details{" open" * (not many)}><summary><h2>{escape(table.title)}</h2></summary>\n'
        f'<table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></details>'
    )


def _make_filter(name: str, options: Sequence[str]) -> str:
    listed = ''.join(f'<option value="{place}">{escape(option)}</option>' for place, option in enumerate(options))
    return f'<label>{escape(name)} <select name="{escape(name)}"><option value="">all</option>{listed}</select></label>'


def _make_figure(figure: Figure) -> str:
    marks = ' '.join(f'data-{escape(name)}="{" ".join(map(str, places))}"' for name, places in figure.marks.items())
    address = escape(quote(figure.picture))
    caption = '<br>'.join(map(escape, figure.caption))
    return (
        f'<figure {marks}><a href="{address}"><img src="{address}" loading="lazy" alt=""></a>'
        f'<figcaption>{caption}</figcaption></figure>'
    )


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src 'self' file:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 15px/1.45 system-ui, sans-serif; margin: 1.5rem auto; max-width: 1500px; padding: 0 1rem; color: #222 }}
h1 {{ font-size: 1.5rem }} h2 {{ font-size: 1.15rem; display: inline-block; margin: 1rem 0 .4rem }}
p {{ margin: .2rem 0 }} ul {{ margin: .2rem 0; padding-left: 1.2rem }}
.problems {{ list-style: none; padding: 0 }}
.problems li {{ border-left: 4px solid #e0a800; margin: .5rem 0; padding: .1rem .7rem; overflow-wrap: anywhere }}
.problems .error {{ border-color: #c62828 }}
table {{ border-collapse: collapse }}
th, td {{ padding: .15rem .7rem; text-align: right; border-bottom: 1px solid #ddd }}
th:first-child, td:first-child {{ text-align: left }}
summary {{ cursor: pointer }} select {{ max-width: 20rem; font: inherit; margin-right: 1rem }}
.filters {{ position: sticky; top: 0; background: #fff; padding: .5rem 0 }}
main {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 1rem }}
figure {{ margin: 0; border: 1px solid #ddd; border-radius: 4px; padding: .4rem }}
figure[hidden] {{ display: none }}
img {{ width: 100%; display: block }}
figcaption {{ font-size: 13px; overflow-wrap: anywhere; margin-top: .3rem }}
</style>
</head>
<body>
{body}
<script>
const selects = [...document.querySelectorAll('select')];
function show() {{
  let shown = 0;
  for (const figure of document.querySelectorAll('figure')) {{
    figure.hidden = !selects.every(one => !one.value || figure.dataset[one.name].split(' ').includes(one.value));
    shown += !figure.hidden;
  }}
  document.querySelector('output').value = shown;
}}
selects.forEach(one => one.addEventListener('change', show));
document.querySelectorAll('a[data-problem]').forEach(link => link.addEventListener('click', () => {{
  selects.forEach(one => one.value = one.name === 'problem' ? link.dataset.problem : '');
  show();
}}));
show();  // a browser keeps what was selected
</script>
</body>
</html>
"""
