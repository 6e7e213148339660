"""Which sections are cut on their own, and what each chunk's place in the outline is."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence

from pipeline_lib.corpus.chunking.blocks import OUTER_PLACES
from pipeline_lib.corpus.outline import HEADING
from pipeline_lib.corpus.schema import Section


def section_runs(
    length: int,
    sections: Sequence[Section],
    *,
    tokens: Callable[[int, int], int],
    fits: Callable[[int, int], bool],
    min_tokens: int,
) -> Iterator[tuple[int, int]]:
    """Stretches of text that are cut without regard to each other, as (start, end).

    A section (a heading and the text up to the next heading of any level) is a stretch of its
    own. One of fewer than `min_tokens` tokens takes in the sections after it, as long as they
    stand below the same parent, until there are `min_tokens`: its subsections in any case, its
    siblings where all of it then fits one chunk. So a title is not left alone, and an edit moves
    cuts in its own section only, or in a few tiny ones beside it.

    Args:
        length: of the text.
        sections: of the document, by start.
        tokens: counts the tokens between two positions.
        fits: says whether the text between two positions fits one chunk.
        min_tokens: from here on a section stands by itself.
    """
    leaves = _leaves(sections)
    ends = [start for start, _ in leaves[1:]] + [length]
    run_start, run_level = leaves[0]
    for number, end in enumerate(ends):
        if number + 1 < len(leaves):
            _, next_level = leaves[number + 1]
            is_tiny = tokens(run_start, end) < min_tokens
            is_below = next_level > run_level
            is_sibling = next_level == run_level and fits(run_start, ends[number + 1])
            if is_tiny and (is_below or is_sibling):
                continue
            yield run_start, end
            run_start, run_level = leaves[number + 1]
        else:
            yield run_start, end


def _leaves(sections: Sequence[Section]) -> list[tuple[int, int]]:
    """Start and level of what begins with a heading or an outer place, or with the text."""
    levels = {s.start: s.level for s in sections if s.kind == HEADING}
    levels |= {s.start: 0 for s in sections if s.kind in OUTER_PLACES}
    return sorted({0: 1, **levels}.items())


class Outline:
    """Answers where in its document a chunk stands."""

    def __init__(self, sections: Sequence[Section]) -> None:
        self._heading_starts: list[int] = []
        self._paths: list[tuple[str, ...]] = []
        path: list[Section] = []
        for section in sections:
            if section.kind == HEADING:
                path = [*(above for above in path if above.level < section.level), section]
            elif section.kind in OUTER_PLACES:
                path = []
            else:
                continue
            self._heading_starts.append(section.start)
            self._paths.append(tuple(above.label for above in path))
        places = [section for section in sections if section.kind != HEADING]
        self._place_starts = [place.start for place in places]
        self._places = [f"{place.kind} {place.label}".rstrip() for place in places]

    def heading_path(self, position: int) -> tuple[str, ...]:
        """The headings above `position`, outermost first."""
        index = bisect_right(self._heading_starts, position) - 1
        return self._paths[index] if index >= 0 else ()

    def places(self, start: int, end: int) -> tuple[str, ...]:
        """The places that `text[start:end]` touches, each once, in order."""
        first = max(0, bisect_right(self._place_starts, start) - 1)
        last = bisect_left(self._place_starts, end)
        return tuple(dict.fromkeys(self._places[first:last]))
