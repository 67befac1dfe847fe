"""Penn Treebank tokenisation of captions, without Java. Knows nothing of the metrics that use it.

Written to give, caption by caption, the words that pycocoevalcap 1.2 gets from the Stanford tokeniser 3.4.1 with
``-preserveLines -lowerCase``: of the rules below the longest match wins, and the earlier rule among equally long ones.
A rule's trailing context counts towards its length but is not part of the token. In the rules, letters stand for both
cases in words spelled out (``(?i:…)``) but not in character classes: that is the reference's way, and whether "miss."
is an abbreviation hangs on it. Compared with the real tokeniser on some 300,000 made-up lines, of which
tests/evaluation keeps a sample; a capital sigma beside uncased letters is the one difference left.

Because words are lower-cased before pycocoevalcap drops punctuation, its upper-case bracket names never match: "-lrb-"
and "-rrb-" stay as words in candidates and references alike.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

DROPPED = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])
"""Tokens that pycocoevalcap removes after tokenising."""

_SKIPPED = frozenset(" \t\u00a0\u3000\u200b\u200e\u200f\ufeff\0") | {chr(code) for code in range(0x2000, 0x200B)}
_BREAKS_TO_SPACES = {ord(char): " " for char in "\n\r\u2028\u2029\x0b\x0c\x85"}
_INSIDE_TOKEN = {ord(" "): "\u00a0", 0xAD: None}
"""Spaces inside a token become no-break spaces, and soft hyphens vanish."""
_ASCII_WORD = re.compile(r"[A-Za-z]{2,}")
_SPLIT_WORDS = frozenset(["cannot", "gonna", "gotta", "lemme", "gimme", "wanna"])
_REACHING = re.compile(r"[\d)] \d|\. \.|<")
"""What may make a token reach over a space: numbers, spaced dots and tags. Abbreviations `_chunk` refuses itself."""

_SPACE = "[ \t\u00a0\u2000-\u200a\u3000]"
_SPACE_OR_BREAK = "[ \t\u00a0\u2000-\u200a\u3000\n]"
_APOSTROPHE = "(?:['\u0092\u2019]|(?i:&apos;))"
_APOSTROPHE_LIKE = "(?:['`\u0092\u2019\u0091\u2018\u201b]|(?i:&apos;))"
_HYPHEN = "[-_\u058a\u2010\u2011]"
_CLITIC = f"{_APOSTROPHE}(?:[msdMSD]|(?i:re|ve|ll))"
_NEGATION = f"(?i:n){_APOSTROPHE_LIKE}(?i:t)"

# Abbreviations keep their period: whether it ends the sentence too does not matter, because a lone period is dropped.
_ABBREVIATION_1 = (
    "(?i:Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec|Mon|Tues?|Wed|Thu(?:rs)?|Fri"
    "|Ala|Ariz|(?-i:[A])rk|(?-i:[A])z|Calif|Colo|Conn|Ct|Dak|(?-i:[D])el|Fla|Ga|(?-i:[I])ll|Ind|Kans?|Ky|(?-i:[L])a"
    "|(?-i:[M])ass|Md|Mich|Minn|(?-i:[M])iss|Mo|Mont|Neb|Nev|Okla|(?-i:[O])re|(?-i:[P])a|Penn|Tenn|(?-i:[T])ex|Va|Vt"
    "|(?-i:[W])ash|Wisc?|Wyo|Inc|Cos?|Corp|Pp?t(?-i:[ye])s?|Ltd|Plc|Rt|Bancorp|Bhd|Assn|Univ|Intl|Sys"
    "|Tel|Bldg|Est|Ext|Sq|Jr|Sr|Bros|(?:Ed|Ph)\\.D|Ph|Blvd|Rd|Esq|etc|al|seq)\\."
)
_TITLE = (
    "Mrs?|Ms|(?-i:[M])iss|Drs?|Profs?|Sens?|Reps?|Attys?|Lt|Col|Gen|Messrs|Govs?|Adm|Rev|Maj|Sgt|Cpl|Pvt|Capt|Ste?|Ave"
    "|Pres|Lieut|Hon|Brig|Co?mdr|Pfc|Spc|Supts?|Det|Mt|Ft|Adj|Adv|Asst|Assoc|Ens|Insp|Dept|Mlle|Mme|Msgr|Sfc"
)
_ACRONYM = (
    "(?:(?i:(?:Canada|Sino|Korean|EU|Japan|non)-U\\.S|U\\.S\\.-(?:U\\.K|U\\.S\\.S\\.R))|[A-Za-z](?:\\.[A-Za-z])*)"
)
_HYPHENED_ACRONYM = "(?:(?i:(?:Canada|Sino|Korean|EU|Japan|non)-U\\.S)|[A-Za-z](?:\\.[A-Za-z])+)"
_ABBREVIATION_2 = f"(?:(?i:{_TITLE}|vs|Alex|Wm|Jos|Cie|a\\.k\\.a|cf|TREAS|Invt|Elec|Natl|M(?-i:[ft])g)|{_ACRONYM})\\."
_NUMBERED = "(?i:ca|figs?|prop|nos?|art|pp|op)\\."
"""Abbreviations only before a number."""
_MAYBE_ABBREVIATION = re.compile(f"{_ABBREVIATION_1}|{_ABBREVIATION_2}|{_NUMBERED}")
_OPENER = (
    "A|About|According|Additionally|After|An|As|At|But|Earlier|He|Her|Here|However|If|In|It|Last|Many|More|Mr\\.|Ms\\."
    "|Now|Once|One|Other|Our|She|Since|So|Some|Such|That|The|Their|Then|There|These|They|This|We|What|When|While|Yet|You"
)
"""Words that begin a sentence often enough that a lone letter's period before them is the sentence's: "plan B. The"."""

_NAME = "[A-Za-z][A-Za-z0-9_:.-]*"
_ATTRIBUTE = f" +{_NAME}(?: *= *(?:\"[^\r\n\"]*\"|'[^\r\n']*'))?"
_TAG = f"<(?:[!?][A-Za-z-][^>\r\n]*|/{_NAME} *|{_NAME}(?:{_ATTRIBUTE})* */? *)>"
_ADDRESS = '(?i:https?)://[^ \t\n\f\r"<>|(){}]+[^ \t\n\f\r"<>|.!?(){},-]'
# The class ",-_" is a range in the reference, so a host name before ".com" has no digits, capitals or slashes.
_SITE = (
    '(?:(?i:www)\\.(?:[^ \t\n\f\r`"<>|.!?(){},]+\\.)+[a-zA-Z]{2,4}'
    "|(?:[^ \t\n\f\r`\"'<>|.!?(){},-_$]+\\.)+(?i:com|net|org|edu))"
    '(?:/[^ \t\n\f\r"<>|(){}]+[^ \t\n\f\r"<>|.!?(){},-])?'
)
_MAIL = (
    '(?i:&lt;|<)?[a-zA-Z0-9][^ \t\n\f\r"<>|(){}\u00a0]*@(?:[^ \t\n\f\r"<>|(){}.\u00a0]+\\.)*'
    '[^ \t\n\f\r"<>|(){}.\u00a0]+(?i:&gt;|>)?'
)
_EXTENSION = (
    "(?i:bat|bmp|class|cgi|cpp|c|dll|docx|doc|exe|gif|gz|html|htm|h|jar|java|jpeg|jpg|mov|mp3|pdf|php|pl|png|ppt|ps|py"
    "|sql|tar|txt|wav|xml|x|zip)"
)
"""File name endings that keep their period even after a digit ("2.jpg"); letters alone keep any ("mat.the")."""
_NUMBER = "[-+]?(?:\\d*(?:[.:,\u00ad\u066b\u066c]\\d+)+|\\d+)"
_FRACTION = "(?:\\d{1,4}[- \u00a0])?\\d{1,4}(?:\\\\?/|\u2044)\\d{1,4}"
_PHONE = (
    "(?:\\([0-9]{2,3}\\)[ \u00a0]?|(?:\\+\\+?)?(?:[0-9]{2,4}[- \u00a0])?[0-9]{2,4}[- \u00a0])"
    "[0-9]{3,4}[- \u00a0]?[0-9]{3,5}"
    "|(?:(?:\\+\\+?)?[0-9]{2,4}\\.)?[0-9]{2,4}\\.[0-9]{3,4}\\.[0-9]{3,5}"
)
_SMILEY = "[<>]?[:;=][-o*']?[()DPdpO\\\\{@|\\[\\]]"
_FACE = (
    "[\\^x=~<>]\\.\\[\\^x=~<>]|[-\\^x=~<>']_[-\\^x=~<>']|\\([-\\^x=~<>'][_.]?[-\\^x=~<>']\\)"
    "|\\([\\^x=~<>']-[\\^x=~<>'`]\\)"
)
_MARKUP = f"-(?i:RRB|LRB|RCB|LCB|RSB|LSB)-|(?i:C\\.D\\.s|pro-|anti-|S(?:&|&amp;)P-500|S(?:&|&amp;)Ls|Cap{_APOSTROPHE}n)"
_SLASHED = "[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}(?:\\\\?/[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}){1,2}"
_HYPHENED = f"[A-Za-z0-9][A-Za-z0-9.,\u00ad]*(?:-(?:{_HYPHENED_ACRONYM}\\.|[A-Za-z0-9\u00ad]+))+"
_SYMBOL = (
    "[+%&~^|\\\\\u00a6-\u00a9\u00ac\u00ae-\u00b8\u00ba\u00d7\u00f7\u2016-\u2023\u2030-\u2038\u203b\u203e-\u2044"
    "\u207a-\u207f\u208a-\u208e\u2100-\u214f\u2190-\u2bff\u3012\u30fb\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65]"
)
_SENTENCE_END = "[.\u00a1\u00bf\u037e\u0589\u061f\u06d4\u0700-\u0702\u07fa\u3002]"

_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_CURRENCY = {
    "\u00a2": "cents",
    "\u00a3": "#",
    "\u20a4": "#",
    "\u00a4": "$",
    "\u0080": "$",
    "\u20a0": "$",
    "\u20ac": "$",
}
_OPENING, _CLOSING = "\u201c\u2018\u00ab\u2039", "\u201d\u2019\u00bb\u203a"
_QUOTES: dict[str, str] = dict(zip(_OPENING + _CLOSING, ["``", "`", "``", "`", "''", "'", "''", "'"], strict=True))

Emit = Callable[[str], tuple[str, int]]
"""From the matched text to the token to write and the characters it uses up; the rest of the match is read again."""


@dataclass(frozen=True)
class _Rule:
    """A token's pattern (group 1) with its trailing context."""

    pattern: re.Pattern[str]
    emit: Emit


def ptb_tokenize(text: str) -> str:
    """Tokenise one caption: lower-cased words without punctuation, joined by single spaces.

    >>> ptb_tokenize("A dog's toy (blue), isn't it?")
    "a dog 's toy -lrb- blue -rrb- is n't it"
    """
    line = text.translate(_BREAKS_TO_SPACES)
    return _line(line + "\n", 0, len(line))


def ptb_tokenize_corpus(texts: Sequence[str]) -> list[str]:
    """Tokenise captions as the lines of one file, as pycocoevalcap does.

    The neighbours matter in rare cases: "no." before a line that begins with a digit is an abbreviation, "plan B."
    before one that begins with "The" is not, and the very last line, which no line break follows, ends differently.
    Line separators inside a caption are spaces here; in the reference any but a line feed shifts all later captions.
    """
    lines = list(texts)
    if any(chr(code) in "".join(lines) for code in _BREAKS_TO_SPACES):
        lines = [text.translate(_BREAKS_TO_SPACES) for text in texts]
    buffer, start, tokenized = "\n".join(lines), 0, []
    plain = _REACHING.search(buffer) is None  # true of most sets of captions, and then asked but once
    for line in lines:
        tokenized.append(_line(buffer, start, start + len(line), plain=plain))
        start += len(line) + 1
    return tokenized


def _line(buffer: str, start: int, end: int, *, plain: bool = False) -> str:
    """Tokenise one line of a text; rules may look beyond its end. Plain: nothing in it is `_REACHING`."""
    text = buffer[start:end]
    if end < len(buffer) and (plain or not _REACHING.search(text)):
        chunks = list(map(_chunk, text.split(" ")))
        if None not in chunks:
            return " ".join(filter(None, chunks))
    return _joined(_tokens(buffer, start, end))


@lru_cache(maxsize=1 << 16)
def _chunk(text: str) -> str | None:
    """The words of a text between two spaces, or nothing if they may depend on what follows."""
    bare = text.removesuffix(".")
    if bare != text and bare and (not _ASCII_WORD.fullmatch(bare) or _MAYBE_ABBREVIATION.fullmatch(text)):
        return None
    if _ASCII_WORD.fullmatch(bare) and bare.lower() not in _SPLIT_WORDS:
        return bare.lower()  # what the rules would give, a hundred times as fast
    return _joined(_tokens(text + " ", 0, len(text)))


def _joined(tokens: Iterable[str]) -> str:
    return " ".join([token for token in tokens if token and token not in DROPPED])


def _tokens(buffer: str, start: int, end: int) -> Iterator[str]:
    position = start
    while position < end:
        if buffer[position] in _SKIPPED:
            position += 1
            continue
        token, position = _next_token(buffer, position)
        yield token


def _next_token(buffer: str, position: int) -> tuple[str, int]:
    """The token that begins here and the place behind it; a character of no rule gives an empty one.

    The reference deletes such characters: its "first delete" option.
    """
    emit, matched, longest = _whole, "", 0
    for rule in _rules():
        match = rule.pattern.match(buffer, position)
        if match and match.end() > longest:
            emit, matched, longest = rule.emit, match[1], match.end()
    if not longest:
        return "", position + 1
    token, used = emit(matched)
    return token.translate(_INSIDE_TOKEN).lower(), position + used


def _whole(text: str) -> tuple[str, int]:
    return text, len(text)


def _as(token: str) -> Emit:
    return lambda text: (token, len(text))


def _all_but(count: int) -> Emit:
    return lambda text: (text[:-count], len(text) - count)


def _replacing(table: dict[str, str]) -> Emit:
    characters = str.maketrans(table)
    return lambda text: (text.translate(characters), len(text))


def _fraction(text: str) -> tuple[str, int]:
    return unicodedata.normalize("NFKC", text).replace("\u2044", "/"), len(text)


def _straight(text: str) -> tuple[str, int]:
    return re.sub(_APOSTROPHE, "'", text), len(text)


def _dashes(text: str) -> tuple[str, int]:
    return "--" if 2 <= len(text) <= 4 else text, len(text)


@cache
def _ranges(*categories: str) -> str:
    """The body of a character class: the characters of the basic plane in the given Unicode categories."""
    codes = [code for code in range(0x10000) if unicodedata.category(chr(code)) in categories]
    ranges, start = [], codes[0]
    for code, following in zip(codes, [*codes[1:], -1], strict=True):
        if following != code + 1:
            ranges.append(f"{chr(start)}-{chr(code)}")
            start = following
    return "".join(ranges)


def _own_apostrophe(letter: str) -> str:
    """Words in which an apostrophe is a letter like any other: "o'clock", "'em", "L'Oreal", "ol'"."""
    a, b = _APOSTROPHE, _APOSTROPHE_LIKE
    return (
        f"{a}(?i:n){a}?|[lLdDjJ]{a}|(?i:Dunkin|somethin|ol){a}|{a}(?i:em)|[A-HJ-XZn]{b}{letter}{{2,}}|{a}[2-9]0(?i:s)"
        f"|{a}(?i:till?)|{letter}+[aeiouyAEIOUY]{b}[aeiouA-Z]{letter}*|{a}(?i:cause)|(?i:c{a}est|O{b}o)"
        "|(?i:cont'd\\.?|nor'easter|c'mon|e'er|s'mores|ev'ry|li'l|nat'l)"
    )


@cache
def _rules() -> tuple[_Rule, ...]:
    """The rules in order of precedence; compiled on first use because the letter classes are large."""
    letter = f"[{_ranges('Lu', 'Ll', 'Lt', 'Lm', 'Lo')}]"
    marked = f"(?:[{_ranges('Lu', 'Ll', 'Lt', 'Lm', 'Lo', 'Mn', 'Mc')}\u00ad]|&[aeiouAEIOU](?i:acute|grave|uml);)"
    word = f"{marked}(?:{marked}|\\d)*(?:[.!?]{marked}(?:{marked}|\\d)*)*"
    part = f"(?:[dDoOlL]{_APOSTROPHE_LIKE}(?:{letter}|\\d))?(?:{letter}|\\d)+"
    thing = f"{part}(?:{_HYPHEN}{part})*"
    table: tuple[tuple[str, str, Emit], ...] = (
        ("(?i:cannot)", "", _all_but(3)),  # every word cut here is in _SPLIT_WORDS
        ("(?i:gonna|gotta|lemme|gimme|wanna)", "", _all_but(2)),
        ("'(?i:tis)", "", _all_but(2)),
        ("'(?i:twas)", "", _all_but(3)),
        ("(?i:c\\+\\+|c#|f#)", "", _whole),
        (_TAG, "", _whole),
        ("&(?i:MD|mdash|ndash);|[\u0096\u0097\u2013\u2014\u2015]", "", _as("--")),
        ("(?i:&amp;)", "", _as("&")),
        ("&(?i:HT|TL|UR|LR|QC|QL|QR|odq|cdq|#[0-9]+);", "", _whole),
        (word, _CLITIC, _whole),
        ("[A-Za-z\u00ad]*[A-MO-Za-mo-z]\u00ad*", _NEGATION, _whole),
        (word, "", _whole),
        (_own_apostrophe(letter), "", _whole),
        (f"(?i:y){_APOSTROPHE}", letter, _whole),
        (_ADDRESS, "", _whole),
        (_SITE, "", _whole),
        (_MAIL, "", _whole),
        (f"@[a-zA-Z_][a-zA-Z_0-9]*|#{letter}+", "", _whole),
        (_CLITIC, "[^A-Za-z]", _straight),
        (_NEGATION, "[^A-Za-z]", _straight),
        ("\\d{1,2}[-/]\\d{1,2}[-/]\\d{2,4}", "", _whole),
        (_NUMBER, "", _whole),
        ("[\u207a\u207b\u208a\u208b]?(?:[\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+|[\u2080-\u2089]+)", "", _whole),
        (_FRACTION, "", _whole),
        ("[\u00bc\u00bd\u00be\u2153-\u215e]", "", _fraction),
        (_MARKUP, "", _whole),
        (f"{_APOSTROPHE}[0-9][0-9]", _SPACE_OR_BREAK, _straight),
        (_SLASHED, "", _whole),
        ("[A-Z]*\\$|#", "", _whole),
        ("[\u00a2-\u00a5\u0080\u20a0\u20ac\u060b\u0e3f\u20a4\uffe0\uffe1\uffe5\uffe6]", "", _replacing(_CURRENCY)),
        (_ABBREVIATION_1, f"{_SPACE}(?:{_SPACE}|[A-Z])", _whole),
        (_ABBREVIATION_1, "(?s:..)", _whole),
        (_ABBREVIATION_1, "", _whole),
        ("[A-Za-z]\\.", f"{_SPACE_OR_BREAK}+(?:{_OPENER}|{_TAG}){_SPACE_OR_BREAK}", _all_but(1)),
        (_ABBREVIATION_2, "", _whole),
        (_ACRONYM, f"{_SPACE_OR_BREAK}+", _whole),
        (_NUMBERED, f"{_SPACE_OR_BREAK}?\\d", _whole),
        (_PHONE, "", _replacing(_BRACKETS)),
        ('"|(?i:&quot;)', "", _as("''")),
        ("<|(?i:&lt;)", "", _as("<")),
        (">|(?i:&gt;)", "", _as(">")),
        (_SMILEY, "[^A-Za-z0-9]", _replacing({key: _BRACKETS[key] for key in "()"})),
        (_FACE, "", _replacing(_BRACKETS)),
        ("[()\\[\\]{}]", "", _replacing(_BRACKETS)),
        ("-+", "", _dashes),
        ("\\.{3,5}|(?:\\.[ \u00a0]){2,4}\\.|[\u0085\u2026]", "", _as("...")),
        ("@+|#+|_+", "", _whole),
        ("\\*+|(?:\\\\\\*){1,3}", "", _whole),
        ("[,;:\u3001]", "", _whole),
        ("[?!]+", "", _whole),
        (_SENTENCE_END, "", _whole),
        ("[=/]", "", _whole),
        (f"(?:{letter}|\\d)+(?:\\.(?:{letter}|\\d)+)*\\.{_EXTENSION}", f"(?:{_SPACE_OR_BREAK}|[.?!,])", _whole),
        (thing, "", _whole),
        (f"(?:{word}|{thing})\\.", "[,;:\u3001]", _whole),
        (_HYPHENED, "", _whole),
        ("[A-Z]+(?:(?:[+&]|(?i:&amp;))[A-Z]+)+", "", _whole),
        ("'", "[A-Za-z][^ \t\n\r\u00a0]", _as("`")),
        (_CLITIC, "", _straight),
        (_NEGATION, "", _straight),
        (f"''|[`\u2018-\u201f\u0091-\u0094{_OPENING}{_CLOSING}]{{1,2}}|{_APOSTROPHE}", "", _replacing(_QUOTES)),
        ("<<|>>", "", _whole),
        (_SYMBOL, "", _whole),
    )
    return tuple(_Rule(re.compile(f"({pattern}){trail}"), emit) for pattern, trail, emit in table)
