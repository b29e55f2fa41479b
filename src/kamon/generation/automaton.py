r"""Conditions on a text as one deterministic automaton, which reads it character by character.

A `Term` describes a set of texts: words, classes of characters, sequences, alternatives,
repetitions, and also intersections and complements. The derivative of a term by a character is the
set of what may follow this character. So the states of the automaton are terms, and the derivative
leads from one state to the next. Source: Brzozowski 1964, doi:10.1145/321239.321249.

`parse_regex` reads the regular part of Python's regular expressions. Python's `re` decides which
characters belong to a class such as `[a-f\d]`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import NoReturn, TypeAlias

from kamon.config import compile_regex
from kamon.data.graphemes import Boundaries
from kamon.errors import ConfigError

MAX_STATES = 4_000
MAX_WORK = 30_000  # derivatives of parts of terms


class TooLarge(ConfigError):  # noqa: N818
    """Conditions that need too many states."""

    def __init__(self) -> None:
        super().__init__(
            "the conditions together need too many states",
            "use a shorter regex or fewer conditions",
        )


@dataclass(frozen=True)
class Term:
    """A set of texts. The functions below make simplified terms, so that there are few of them.

    Attributes:
        kind: "words", "class", "sequence", "union", "intersection", "complement", "repeat" or, in
            the outermost terms only, "characters": its part reads a text by grapheme clusters.
        parts: the terms that it is made of.
        words: of "words". Of "characters": the clusters that its part names.
        chars: of "class": a pattern that matches its single characters.
        least, most: of "repeat". most is None without a limit.
    """

    kind: str
    parts: tuple[Term, ...] | frozenset[Term] = ()
    words: frozenset[str] = frozenset()
    chars: re.Pattern[str] | None = None
    least: int = 0
    most: int | None = 0

    @cached_property
    def _hash(self) -> int:
        return hash((self.kind, self.parts, self.words, self.chars, self.least, self.most))

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def has_empty(self) -> bool:
        """Whether the empty text belongs to it."""
        empty = (part.has_empty for part in self.parts)
        match self.kind:
            case "words":
                return "" in self.words
            case "sequence" | "intersection":
                return all(empty)
            case "union":
                return any(empty)
            case "complement":
                return not any(empty)
            case "repeat":
                return self.least == 0 or all(empty)
        return False

    @cached_property
    def leaves(self) -> frozenset[Term]:
        """The words and classes that it is made of."""
        if not self.parts:
            return frozenset([self])
        return frozenset().union(*(part.leaves for part in self.parts))


def words(texts: Iterable[str]) -> Term:
    """Return the term of these texts."""
    return Term("words", words=frozenset(texts))


def one_of(chars: str, flags: int = 0) -> Term:
    """Return the term of the single characters that a regular expression matches."""
    return Term("class", chars=re.compile(chars, flags))


NOTHING = words([])
EMPTY = words([""])
ANY = one_of(".+", re.DOTALL)  # one character, which may have several code points
ALL = Term("complement", (NOTHING,))


def sequence(*terms: Term) -> Term:
    """Return the texts of each term, one after the other."""
    found = EMPTY
    for term in reversed(terms):
        if NOTHING in (term, found):
            return NOTHING
        if term == EMPTY:
            continue
        if found == EMPTY:
            found = term
        elif term.kind == "sequence":
            first, rest = term.parts
            found = sequence(first, sequence(rest, found))
        elif term.kind == found.kind == "words" and len(term.words) == len(found.words) == 1:
            found = words(next(iter(term.words)) + text for text in found.words)
        elif not term == found == ALL:
            found = Term("sequence", (term, found))
    return found


def union(*terms: Term) -> Term:
    """Return the texts that belong to any of the terms."""
    parts: set[Term] = set()
    texts: set[str] = set()
    for term in terms:
        for part in term.parts if term.kind == "union" else [term]:
            if part.kind == "words":
                texts |= part.words
            else:
                parts.add(part)
    if ALL in parts:
        return ALL
    if texts:
        parts.add(words(texts))
    if len(parts) == 1:
        return parts.pop()
    return Term("union", frozenset(parts)) if parts else NOTHING


def intersection(*terms: Term) -> Term:
    """Return the texts that belong to all of the terms."""
    parts: set[Term] = set()
    for term in terms:
        parts.update(term.parts if term.kind == "intersection" else [term])
    parts.discard(ALL)
    if NOTHING in parts:
        return NOTHING
    if len(parts) == 1:
        return parts.pop()
    return Term("intersection", frozenset(parts)) if parts else ALL


def complement(term: Term) -> Term:
    """Return all other texts."""
    if term.kind == "complement":
        (part,) = term.parts
        return part
    return Term("complement", (term,))


def repeat(term: Term, least: int = 0, most: int | None = None) -> Term:
    """Return `least` to `most` texts of the term, one after the other."""
    if most == 0 or term == EMPTY:
        return EMPTY
    if term == NOTHING:
        return NOTHING if least else EMPTY
    if (least, most) == (1, 1):
        return term
    if (least, most) == (0, None) and term == ANY:
        return ALL
    if most is None and term.kind == "repeat" and term.most is None and term.least <= 1:
        (part,) = term.parts
        return repeat(part, min(least, term.least))
    return Term("repeat", (term,), least=least, most=most)


def characters(term: Term, named: Iterable[str] = ()) -> Term:
    """Return the texts whose grapheme clusters, as if each were one code point, are in a term."""
    return Term("characters", (term,), words=frozenset(named))


def one_cluster(cluster: str) -> Term:
    """Return the term of one grapheme cluster, for `characters`."""
    return one_of(re.escape(cluster), re.DOTALL)


class Automaton:
    """The automaton of a term, made as far as it is asked for. State 0 is the start.

    >>> automaton = Automaton(parse_regex("(ab|c)+"))
    >>> automaton.matches("abcab"), automaton.matches("aba")
    (True, False)

    Raises: ConfigError if it becomes too large.
    """

    def __init__(self, term: Term) -> None:
        leaves = term.leaves
        self.classes = sorted({leaf.chars for leaf in leaves if leaf.chars}, key=repr)
        self.literals = {char for leaf in leaves for text in leaf.words for char in text}
        self.terms = [term]
        self.numbers = {term: 0}
        self.next_states: list[dict[str, int]] = [{}]
        self.kinds: dict[str, object] = {}
        self.derived: dict[tuple[Term, object], Term] = {}

    def kind_of(self, char: str) -> object:
        """Return what the term knows of a character: all of the same kind lead to one state."""
        if char not in self.kinds:
            literal = char if char in self.literals else ""
            classes = tuple(bool(each.fullmatch(char)) for each in self.classes)
            self.kinds[char] = literal, classes
        return self.kinds[char]

    def next(self, state: int, char: str) -> int:
        """Return the state after a character."""
        after = self.next_states[state].get(char)
        if after is None:
            term = self.derivative(self.terms[state], char, self.kind_of(char))
            after = self.numbers.setdefault(term, len(self.terms))
            if after == len(self.terms):
                self.terms.append(term)
                self.next_states.append({})
                if after >= MAX_STATES:
                    raise TooLarge
            self.next_states[state][char] = after
        return after

    def after(self, state: int, text: str) -> int:
        """Return the state after a text."""
        known = self.next_states
        for char in text:
            after = known[state].get(char)
            state = self.next(state, char) if after is None else after
        return state

    def accepts(self, state: int) -> bool:
        """Return whether a text may end here."""
        return self.terms[state].has_empty

    def is_dead(self, state: int) -> bool:
        """Return whether it is plain that no text can end after this state."""
        return self.terms[state] == NOTHING

    def matches(self, text: str) -> bool:
        return self.accepts(self.after(0, text))

    def derivative(self, term: Term, char: str, kind: object) -> Term:
        """Return what may follow `char` in the texts of `term` that begin with it."""
        found = self.derived.get((term, kind))
        if found is None:
            if len(self.derived) > MAX_WORK:
                raise TooLarge
            found = self.derived[term, kind] = self._derivative(
                term, char, lambda part: self.derivative(part, char, kind)
            )
        return found

    def _derivative(self, term: Term, char: str, of: Callable[[Term], Term]) -> Term:
        match term.kind:
            case "words":
                return words(text[1:] for text in term.words if text[:1] == char)
            case "class":
                return EMPTY if term.chars and term.chars.fullmatch(char) else NOTHING
            case "sequence":
                first, rest = term.parts
                after = sequence(of(first), rest)
                return union(after, of(rest)) if first.has_empty else after
            case "union":
                return union(*map(of, term.parts))
            case "intersection":
                return intersection(*map(of, term.parts))
            case "complement":
                return complement(*map(of, term.parts))
        (part,) = term.parts
        most = None if term.most is None else term.most - 1
        return sequence(of(part), repeat(part, max(0, term.least - 1), most))


class ClusterAutomaton:
    """The automaton of terms about code points and of terms about grapheme clusters.

    It has the methods of an Automaton. A state has four parts: the state of the terms about code
    points, that of the terms about clusters before the unfinished one, that of the boundaries, and
    the unfinished cluster. The last one is OTHER if all terms treat it like most clusters.

    >>> from kamon.data.graphemes import AnyClusters
    >>> two = characters(repeat(ANY, 2, 2))
    >>> automaton = ClusterAutomaton([two], AnyClusters())
    >>> automaton.matches("हिन्दी"), automaton.matches("हि")
    (True, False)
    """

    OTHER = "\uffff\uffff"  # a cluster that no term names
    DEAD = 1

    def __init__(self, terms: Iterable[Term], boundaries: Boundaries) -> None:
        terms = list(terms)
        by_cluster = [term for term in terms if term.kind == "characters"]
        self.codes = Automaton(intersection(*(t for t in terms if t.kind != "characters")))
        self.clusters = Automaton(intersection(*(t.parts[0] for t in by_cluster)))  # type: ignore[index]
        named = [text for term in by_cluster for text in term.words]
        self.begun = {text[: end + 1] for text in named for end in range(len(text))}
        self.literals = self.codes.literals | set("".join(named))
        self.boundaries = boundaries
        dead = -1, -1, -1, ""
        self.states: list[tuple[int, int, int, str]] = [(0, 0, 0, ""), dead]
        self.numbers = {state: number for number, state in enumerate(self.states)}
        self.next_states: list[dict[str, int]] = [{}, {}]

    def next(self, state: int, char: str) -> int:
        """Return the state after a code point."""
        if state == self.DEAD:
            return state
        after = self.next_states[state].get(char)
        if after is None:
            after = self.next_states[state][char] = self.number(self.states[state], char)
        return after

    def number(self, state: tuple[int, int, int, str], char: str) -> int:
        code_state, cluster_state, place, begun = state
        step = self.boundaries.step(place, char)
        if step is None:
            return self.DEAD
        code_state = self.codes.next(code_state, char)
        if step[1] and begun:
            cluster_state, begun = self.clusters.next(cluster_state, begun), ""
        begun += char
        if begun not in self.begun:
            begun = self.OTHER
            if self.clusters.is_dead(self.clusters.next(cluster_state, begun)):
                return self.DEAD
        if self.codes.is_dead(code_state) or self.clusters.is_dead(cluster_state):
            return self.DEAD
        found = code_state, cluster_state, step[0], begun
        number = self.numbers.setdefault(found, len(self.states))
        if number == len(self.states):
            self.states.append(found)
            self.next_states.append({})
            if number >= MAX_STATES:
                raise TooLarge
        return number

    def after(self, state: int, text: str) -> int:
        """Return the state after a text."""
        for char in text:
            state = self.next(state, char)
        return state

    def accepts(self, state: int) -> bool:
        """Return whether a text may end here."""
        code_state, cluster_state, place, begun = self.states[state]
        if state == self.DEAD or not self.boundaries.is_whole(place):
            return False
        if begun:
            cluster_state = self.clusters.next(cluster_state, begun)
        return self.codes.accepts(code_state) and self.clusters.accepts(cluster_state)

    def is_dead(self, state: int) -> bool:
        """Return whether it is plain that no text can end after this state."""
        return state == self.DEAD

    def matches(self, text: str) -> bool:
        return self.accepts(self.after(0, text))


def automaton_of(terms: Iterable[Term], boundaries: Boundaries | None) -> AnyAutomaton:
    """Return the automaton of texts that belong to all terms.

    boundaries: of the characters. None if each is one code point.
    """
    if boundaries:
        return ClusterAutomaton(terms, boundaries)
    plain = (term.parts if term.kind == "characters" else [term] for term in terms)
    return Automaton(intersection(*chain.from_iterable(plain)))


AnyAutomaton: TypeAlias = Automaton | ClusterAutomaton


# ---- regular expressions

QUANTIFIER = re.compile(r"[*+?]|\{(\d*)(,?)(\d*)\}")
ESCAPE = re.compile(
    r"\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|N\{[^}]*\}|0[0-7]{0,2}|[1-3][0-7]{2}|.)",
    re.DOTALL,
)
CLASS = re.compile(r"\[\^?\]?(?:[^\]\\]|\\.)*\]", re.DOTALL)
GROUP = re.compile(r"\((?:\?(?:([aisu]*):|P<\w+>))?(?!\?)")
FLAGS = re.compile(r"\(\?([aisu]+)\)")
FLAG_OF = {"a": re.ASCII, "i": re.IGNORECASE, "s": re.DOTALL, "u": re.UNICODE}
NOT_REGULAR = {  # what no automaton of characters can follow, by how it begins
    r"\(\?[=!]": "a look-ahead in a group",
    r"\(\?<[=!]": "a look-behind",
    r"\(\?P=|\\[1-9]": "a back-reference",
    r"\(\?\(": "a conditional group",
    r"\(\?>": "an atomic group",
    r"\(\?#": "a comment",
    r"\(\?": "a flag other than a, i, s and u",
    r"\\[bB]": "a word boundary",
    r"\^|\\A": "a start that is not at the beginning",
    r"\$|\\Z": "an end that is not at the end",
    r"[*+?}]\+": "a possessive quantifier",
}


def parse_regex(regex: str) -> Term:
    r"""Return the texts that a regular expression of Python matches as a whole.

    Look-ahead is possible outside of groups.

    Raises: ConfigError for what Python does not understand, and for what is not regular, such as
        back-references.
    """
    compile_regex(regex)
    try:
        return RegexParser(regex).parse()
    except RecursionError:
        raise ConfigError(f"regex {regex!r:.100} has too many groups in one another") from None


class RegexParser:
    """Reads a valid regular expression from left to right."""

    def __init__(self, regex: str) -> None:
        self.regex = regex
        self.place = 0

    def parse(self) -> Term:
        flags = 0
        if found := FLAGS.match(self.regex):
            self.place = found.end()
            flags = flags_of(found[1])
        return self.alternatives(flags, 0)

    def alternatives(self, flags: int, depth: int) -> Term:
        found = [self.items(flags, depth)]
        while self.regex[self.place : self.place + 1] == "|":
            self.place += 1
            found.append(self.items(flags, depth))
        return union(*found)

    def items(self, flags: int, depth: int) -> Term:
        """Read up to the end of an alternative. depth: the number of groups around it."""
        found: list[Term] = []
        if not depth:
            self.skip(("^", r"\A"))
        while self.regex[self.place : self.place + 1] not in ("", "|", ")"):
            begin = self.place
            if not depth and self.skip(("$", r"\Z")):
                if self.regex[self.place : self.place + 1] in ("", "|"):
                    break
                self.place = begin
            if not depth and (self.skip(("(?=",)) or self.skip(("(?!",))):
                found.append(self.look_ahead(flags, self.regex[begin + 2] == "!"))
                break
            found.append(self.quantified(self.item(flags, depth)))
        return sequence(*found)

    def look_ahead(self, flags: int, negative: bool) -> Term:
        """Read a look-ahead, whose beginning has been read, and the rest of the alternative."""
        begins = sequence(self.alternatives(flags, 1), ALL)
        self.place += 1  # the closing bracket
        return intersection(complement(begins) if negative else begins, self.items(flags, 0))

    def skip(self, tokens: tuple[str, ...]) -> bool:
        token = next((each for each in tokens if self.regex.startswith(each, self.place)), "")
        self.place += len(token)
        return bool(token)

    def item(self, flags: int, depth: int) -> Term:
        regex, begin = self.regex, self.place
        char = regex[begin]
        if char in "^$" or re.match(r"\\[1-9bBAZ]", regex[begin:]):
            octal = re.match(r"\\[1-3][0-7]{2}", regex[begin:])
            if not octal:
                self.refuse()
        if char == "(":
            found = GROUP.match(regex, begin)
            if not found:
                self.refuse()
            self.place = found.end()
            inner = self.alternatives(flags | flags_of(found[1] or ""), depth + 1)
            self.place += 1  # the closing bracket
            return inner
        shape = {"[": CLASS, "\\": ESCAPE}.get(char)
        found = shape.match(regex, begin) if shape else None
        self.place = found.end() if found else begin + 1
        source = regex[begin : self.place]
        if char in "[\\.":
            return one_of(source, flags)
        return one_of(re.escape(char), flags) if flags & re.IGNORECASE else words([char])

    def quantified(self, term: Term) -> Term:
        while found := QUANTIFIER.match(self.regex, self.place):
            text = found[0]
            if text == "{}":
                break
            self.place = found.end()
            if text in ("*", "+", "?"):
                least, most = {"*": (0, None), "+": (1, None), "?": (0, 1)}[text]
            else:
                least = int(found[1] or 0)
                most = int(found[3]) if found[3] else None if found[2] else least
            term = repeat(term, least, most)
            if self.regex.startswith("+", self.place):
                self.place -= 1
                self.refuse()
            self.skip(("?",))  # a lazy quantifier matches the same texts
        return term

    def refuse(self) -> NoReturn:
        rest = self.regex[self.place :]
        what = next(name for begin, name in NOT_REGULAR.items() if re.match(begin, rest))
        raise ConfigError(
            f"regex {self.regex!r:.100} has {what} at position {self.place + 1}",
            r"use characters, classes such as [a-z] and \d, groups, | and the quantifiers "
            "* + ? {m,n}",
        )


def flags_of(letters: str) -> int:
    found = 0
    for letter in letters:
        found |= FLAG_OF[letter]
    return found
