#!/usr/bin/env python
"""Draw which wing of the package imports which, and list its modules, in docs/architecture.md.

tools/analysis/draw_architecture.py    # rewrites both parts of the page, from the sources as they are
"""

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / 'convnext_backbone'
PAGE = ROOT / 'docs/architecture.md'

Graph = dict[str, set[str]]  # for each wing those that it imports


def parse(module: Path) -> ast.Module:
    """The syntax tree of a module."""
    return ast.parse(module.read_text(encoding='utf-8'))


def imported_wings(module: Path) -> set[str]:
    """The other wings that a module of the package imports, at its top or inside a function."""
    place = module.relative_to(PACKAGE.parent)
    found = set()
    for node in ast.walk(parse(module)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = place.parts[: -node.level] if node.level else ()
            base = '.'.join([*parents, *filter(None, [node.module])])
            names = [f'{base}.{alias.name}' for alias in node.names]
        else:
            continue
        found |= {parts[1] for parts in (name.split('.') for name in names) if parts[0] == PACKAGE.name}
    return found - {place.parts[1]}


def read_imports() -> Graph:
    """The imports between all wings."""
    graph: Graph = {}
    for module in sorted(PACKAGE.glob('*/**/*.py')):
        wing = module.relative_to(PACKAGE).parts[0]
        graph[wing] = graph.get(wing, set()) | imported_wings(module)
    return graph


def reachable(graph: Graph, wing: str) -> set[str]:
    """All wings that a wing imports, directly or through others."""
    return set().union(*({other} | reachable(graph, other) for other in graph[wing]))


def transitive_reduction(graph: Graph) -> Graph:
    """The same graph without the edges that follow from others."""
    return {wing: others - set().union(*(reachable(graph, o) for o in others)) for wing, others in graph.items()}


def draw(graph: Graph) -> str:
    """A graph as a mermaid block for markdown."""
    edges = [f'    {wing} --> {other}\n' for wing, others in sorted(graph.items()) for other in sorted(others)]
    joined = {wing for wing, others in graph.items() if others} | set().union(*graph.values())
    alone = [f'    {wing}\n' for wing in sorted(graph.keys() - joined)]
    return ''.join(['```mermaid\n', 'graph TD\n', *edges, *alone, '```\n'])


def list_modules() -> str:
    """All modules by wing, each with the first line of its docstring."""
    lines = []
    for module in sorted(PACKAGE.glob('*/*.py'), key=lambda path: (path.parent, path.name != '__init__.py', path.name)):
        purpose = (ast.get_docstring(parse(module)) or '').partition('\n')[0]
        if module.name == '__init__.py':
            lines.append(f'\n**{module.parent.name}**: {purpose}\n\n')
        else:
            lines.append(f'- [{module.name}](../{module.relative_to(ROOT)}): {purpose}\n')
    return ''.join([*lines, '\n'])


def replace_part(page: str, name: str, text: str) -> str:
    """A page with what stands between the two comments of a part replaced."""
    start, end = f'<!-- {name} -->\n', f'<!-- /{name} -->\n'
    return page.split(start)[0] + start + text + end + page.split(end)[1]


def update(page: str) -> str:
    """The page with its parts as the sources have them now."""
    picture = draw(transitive_reduction(read_imports()))
    return replace_part(replace_part(page, 'picture', picture), 'modules', list_modules())


def main() -> None:
    """Rewrite the page."""
    PAGE.write_text(update(PAGE.read_text(encoding='utf-8')), encoding='utf-8')
    print(f'Written: {PAGE}')


if __name__ == '__main__':
    sys.exit(main())
