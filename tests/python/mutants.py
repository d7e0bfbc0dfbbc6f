"""Mutants of a SQL file: the same text with one small thing wrong, generated, not picked by hand.

Works on the text with its Jinja, which it takes for one value each. A mutant that PostgreSQL
refuses is invalid; nothing here cares.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

TOKEN = re.compile(
    r"""
      (?P<skip>\{\#.*?\#\}|--[^\n]*|\s+)
    | (?P<block>\{%.*?%\})
    | (?P<value>\{\{.*?\}\}|%\(\w+\)s|'(?:[^']|'')*'|"[^"]*")
    | (?P<number>\d+)
    | (?P<word>[A-Za-z_][\w.]*)
    | (?P<mark><>|<=|>=|::|->>|->|\|\||@>|.)
    """,
    re.VERBOSE | re.DOTALL,
)
OPENERS = {"(": ")", "[": "]", "case": "end"}
COMPARISONS = {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "=": "<>", "<>": "="}
TWINS = {"min": "max", "least": "greatest", "bool_or": "bool_and"}
TWINS |= {twin: name for name, twin in TWINS.items()}
CONDITIONS = {"where", "on", "having", "when"}
# Words that end a condition or an expression on their level.
BOUNDARIES = CONDITIONS | {
    *("and", "or", "then", "else", "select", "from", "as", "by", "group", "order", "limit"),
    *("union", "returning", "filter", "with", "join", "inner", "cross", "set", "over", "rows"),
    *("insert", "delete", "update", "into", "materialized", "do"),
    *(",", ";"),
}
# Words after the last item of a list of columns.
AFTER_A_LIST = {"order", "limit", "having", "union", "rows", "returning", "on", "where"}


@dataclass(frozen=True)
class Mutant:
    """One file with one change; `text` is the whole file after it."""

    path: str
    line: int
    change: str
    text: str = field(repr=False)

    @property
    def name(self) -> tuple[str, str]:
        """What tells it from the other mutants, as long as nobody edits that very place."""
        return self.path, self.change


@dataclass
class Token:
    kind: str
    text: str
    start: int
    end: int

    @property
    def word(self) -> str:
        return self.text.lower() if self.kind in ("word", "mark") else ""


@dataclass
class Group:
    """What stands between brackets, or between case and end."""

    opener: Token | None
    items: list[Token | Group] = field(default_factory=list)
    start: int = 0
    end: int = 0
    word = ""
    kind = "group"

    def groups(self) -> Iterator[Group]:
        yield self
        for item in self.items:
            if isinstance(item, Group):
                yield from item.groups()


def parse(text: str) -> Group:
    """The tokens of the text, nested."""
    stack = [Group(None, start=0, end=len(text))]
    for match in TOKEN.finditer(text):
        kind = match.lastgroup or ""
        if kind == "skip":
            continue
        token = Token(kind, match[0], match.start(), match.end())
        opener = stack[-1].opener
        if token.word in OPENERS:
            stack.append(Group(token, start=token.start))
        elif opener and token.word == OPENERS[opener.word]:
            done = stack.pop()
            done.end = token.end
            stack[-1].items.append(done)
        else:
            stack[-1].items.append(token)
    if len(stack) != 1:
        raise ValueError(f"never closed: {stack[-1].opener}")
    return stack[0]


Edit = tuple[int, int, str, str]  # from, to, what stands there then, what is said of it
Item = Token | Group


class Generator:
    """All edits of one text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.root = parse(text)

    def edits(self) -> Iterator[Edit]:
        for group in self.root.groups():
            yield from self.conditions(group)
            yield from self.words(group)
            yield from self.lists(group)
        for match in re.finditer(r"(?<=, )\d+(?=\)\s*-?\}\})", self.text):
            yield match.start(), match.end(), str(int(match[0]) + 1), f"{match[0]} + 1"

    def said(self, first: int, last: int) -> str:
        return " ".join(re.sub(r"--[^\n]*", "", self.text[first:last]).split())

    # --- Conditions -------------------------------------------------------------------------------

    def segments(self, group: Group) -> Iterator[tuple[str, list[Item], str]]:
        """The expressions of one level, each with the word before and the word after it."""
        before, items = "", list[Item]()
        previous: Item | None = None
        is_between = False
        for item in group.items:
            word = item.word
            is_end = word in BOUNDARIES or item.kind == "block"
            if word == "left":  # a join; left() is a function
                is_end = True
            if word == "and" and is_between:
                is_end = is_between = False
            if word == "from" and previous and previous.word == "distinct":
                is_end = False
            if word == "between":
                is_between = True
            if is_end:
                yield before, items, word
                before, items, is_between = word, [], False
                if word == "on" and previous and previous.word == "distinct":
                    before = "distinct on"
            else:
                items.append(item)
            previous = item
        yield before, items, ""

    def conditions(self, group: Group) -> Iterator[Edit]:
        """Every condition dropped and negated."""
        for before, items, after in self.segments(group):
            if not items or (before == "on" and items[0].word == "conflict"):
                continue
            around = {before, after}
            start, end = items[0].start, items[-1].end
            said = self.said(start, end)
            if before in CONDITIONS | {"and", "or"} or around & {"and", "or"}:
                if said in ("true", "false"):
                    continue
                if "and" in around:
                    yield start, end, "true", f"dropped: {said}"
                elif "or" in around or before == "when":
                    yield start, end, "false", f"dropped: {said}"
                else:
                    yield start, end, "true", f"dropped: {said}"
                yield start, end, f"not ({self.text[start:end]})", f"negated: {said}"
            elif before in ("select", ",") and self.is_comparison(items):
                yield start, end, f"not ({self.text[start:end]})", f"negated: {said}"

    def is_comparison(self, items: list[Item]) -> bool:
        return any(item.word in (*COMPARISONS, "is", "in", "exists") for item in items)

    # --- Words ------------------------------------------------------------------------------------

    def words(self, group: Group) -> Iterator[Edit]:
        """Operators, joins, functions and numbers, each for its neighbour."""
        items = group.items
        alone = {
            id(item)
            for before, segment, after in self.segments(group)
            if before in CONDITIONS | {"and", "or", "select", ","} or after in ("and", "or")
            for item in segment
        }
        is_between = False
        for at, item in enumerate(items):
            word = item.word
            previous = items[at - 1] if at else None
            following = items[at + 1] if at + 1 < len(items) else None
            first = item if previous is None or previous.word == "," else previous
            said = self.said(first.start, (following or item).end)[:90]
            if word == "between":
                is_between = True
            elif word in ("and", "or"):
                if is_between:
                    is_between = False
                    continue
                swapped = "or" if word == "and" else "and"
                yield item.start, item.end, swapped, f"{word} -> {swapped}: {said}"
            elif word in COMPARISONS and not (word in ("=", "<>") and id(item) in alone):
                swapped = COMPARISONS[word]
                yield item.start, item.end, swapped, f"{word} -> {swapped}: {said}"
            elif word == "left" and following and following.word == "join":
                yield item.start, item.end, "inner", f"left -> inner join: {self.after(items, at)}"
            elif word == "inner":
                yield item.start, item.end, "left", f"inner -> left join: {self.after(items, at)}"
            elif word in TWINS and following and self.is_bracket(following):
                yield item.start, item.end, TWINS[word], f"{word} -> {TWINS[word]}: {said}"
            elif word == "distinct" and not (following and following.word == "from"):
                on = following is not None and following.word == "on"
                end = items[at + 2].end if on else item.end
                yield item.start, end, "", f"dropped: {self.said(item.start, end)}"
            elif word == "union":
                if following and following.word == "all":
                    yield item.start, following.end, "union", "union all -> union"
                else:
                    yield item.start, item.end, "union all", "union -> union all"
            elif item.kind == "number" and not (
                (previous and previous.word in ("select", "-"))
                or (group.opener and self.is_type(group))
            ):
                number = self.text[item.start : item.end]
                yield item.start, item.end, str(int(number) + 1), f"{number} + 1: {said}"
            elif word in ("+", "-") and previous and following and item.kind == "mark":
                swapped = "-" if word == "+" else "+"
                yield item.start, item.end, swapped, f"{word} -> {swapped}: {said}"

    def after(self, items: list[Item], at: int) -> str:
        """What is joined."""
        end = min(at + 4, len(items)) - 1
        return self.said(items[at].start, items[end].end)[:90]

    def is_bracket(self, item: Item) -> bool:
        return isinstance(item, Group) and item.opener is not None and item.opener.text == "("

    def is_type(self, group: Group) -> bool:
        assert group.opener
        return bool(re.search(r"(varchar|numeric)$", self.text[: group.opener.start].rstrip()))

    # --- Lists ------------------------------------------------------------------------------------

    def lists(self, group: Group) -> Iterator[Edit]:
        """Columns of order by, group by, partition by; values of in (…) and coalesce(…)."""
        items = group.items
        distinct_on = self.distinct_on(items)
        for at, item in enumerate(items[:-1]):
            following = items[at + 1]
            if item.word in ("order", "group", "partition") and following.word == "by":
                columns = self.split(items[at + 2 :])
                clause = f"{item.word} by"
                if len(columns) == 1 and item.word != "group":
                    start, end = item.start, columns[0][-1].end
                    yield start, end, "", f"dropped: {self.said(start, end)}"
                elif len(columns) > 1:
                    yield from self.without_each(columns, clause)
                if item.word == "order":
                    yield from self.other_way(columns, distinct_on)
            elif item.word in ("in", "coalesce") and isinstance(following, Group):
                values = self.split(following.items)
                if len(values) > 1 and values[0][0].word != "select":
                    yield from self.without_each(values, item.word)

    def distinct_on(self, items: list[Item]) -> set[str]:
        """The columns of select distinct on (…) on this level: their direction says nothing."""
        found = set[str]()
        for at, item in enumerate(items[:-2]):
            columns = items[at + 2]
            if (
                item.word == "distinct"
                and items[at + 1].word == "on"
                and isinstance(columns, Group)
            ):
                found |= {self.said(c[0].start, c[-1].end) for c in self.split(columns.items)}
        return found

    def split(self, items: list[Item]) -> list[list[Item]]:
        """The items of a list that ends with its level or the next clause."""
        found: list[list[Item]] = [[]]
        for item in items:
            if item.word in AFTER_A_LIST or item.kind == "block":
                break
            if item.word == ",":
                found.append([])
            else:
                found[-1].append(item)
        return [column for column in found if column]

    def without_each(self, columns: list[list[Item]], clause: str) -> Iterator[Edit]:
        for at, column in enumerate(columns):
            is_last = at + 1 == len(columns)
            start = columns[at - 1][-1].end if is_last else column[0].start
            end = column[-1].end if is_last else columns[at + 1][0].start
            yield start, end, "", f"{clause} without {self.said(column[0].start, column[-1].end)}"

    def other_way(self, columns: list[list[Item]], distinct_on: set[str]) -> Iterator[Edit]:
        for column in columns:
            said = self.said(column[0].start, column[-1].end)
            if said in distinct_on:
                continue
            way = next((item for item in column if item.word in ("asc", "desc")), None)
            if way and way.word == "desc":
                yield way.start, way.end, "asc", f"desc -> asc: order by {said}"
            elif way:
                yield way.start, way.end, "desc", f"asc -> desc: order by {said}"
            else:
                yield column[-1].end, column[-1].end, " desc", f"asc -> desc: order by {said}"


def mutants(path: str, text: str) -> list[Mutant]:
    """All mutants of a file, in the order of its lines, no two of the same text."""
    found: list[Mutant] = []
    texts, changes = {text}, Counter[str]()
    for start, end, new, change in sorted(Generator(text).edits()):
        mutated = text[:start] + new + text[end:]
        if mutated in texts:
            continue
        texts.add(mutated)
        changes[change] += 1
        said = change if changes[change] == 1 else f"{change} (no. {changes[change]})"
        found.append(Mutant(path, text.count("\n", 0, start) + 1, said, mutated))
    return found
