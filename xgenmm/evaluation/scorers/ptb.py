"""Penn Treebank tokenisation of captions, without Java. Knows nothing of the metrics that use it.

Written to give, caption by caption, the words that pycocoevalcap 1.2 gets from the Stanford tokeniser 3.4.1 with
``-preserveLines -lowerCase``: the longest match among the rules below wins, and the earlier rule among equally long ones.
A rule's trailing context counts towards its length but is not part of the token. tests/evaluation compares it with the real one.

Because words are lower-cased before pycocoevalcap drops punctuation, its upper-case bracket names never match: "-lrb-"
and "-rrb-" stay as words in candidates and references alike.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

DROPPED = frozenset(
    ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"]
)
"""Tokens that pycocoevalcap removes after tokenising. The bracket names are its own; lower-cased text never has them."""

_LOOKAHEAD = 12
"""Characters of the next line that a rule can depend on."""
_SKIPPED = frozenset(" \t\u00a0\u3000\u200b\u200e\u200f\ufeff\0") | {chr(code) for code in range(0x2000, 0x200B)}
_BREAKS_TO_SPACES = {ord(char): " " for char in "\r\u2028\u2029\x0b\x0c\x85"}
_PLAIN = re.compile(r"[A-Za-z]{2,}(?: [A-Za-z]+)* [A-Za-z]{2,}\.?")
_SPLIT_WORDS = {
    "cannot": "can not",
    "gonna": "gon na",
    "gotta": "got ta",
    "lemme": "lem me",
    "gimme": "gim me",
    "wanna": "wan na",
}

_SPACE = "[ \t\u00a0\u2000-\u200a\u3000]"
_SPACE_OR_BREAK = "[ \t\u00a0\u2000-\u200a\u3000\n]"
_APOS = "(?:['\u0092\u2019]|(?i:&apos;))"
_APOS_ETC = "(?:['\u0092\u2019\u0091\u2018\u201b]|(?i:&apos;))"
_HYPHEN = "[-_\u058a\u2010\u2011]"
_CLITIC = f"{_APOS}(?:[msdMSD]|(?i:re|ve|ll))"
_NEGATION = f"(?i:n){_APOS_ETC}(?i:t)"

# Abbreviations keep their period. Literals match in any case; a letter in (?-i:[...]) only as written, which is how the
# reference keeps "miss.", "mass." or "ill." from being abbreviations. Whether the period also ends the sentence does not
# matter here: a sentence's period is dropped.
_ABBREVIATION_1 = (
    "(?i:Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec|Mon|Tues?|Wed|Thu(?:rs)?|Fri"
    "|Ala|Ariz|(?-i:[A])rk|Calif|Colo|Conn|Dak|Del|Fla|Ga|(?-i:[I])ll|Ind|Kans?|Ky|La|(?-i:[M])ass|Md|Mich|Minn|(?-i:[M])iss"
    "|Mo|Mont|Neb|Nev|Okla|(?-i:[O])re|(?-i:[P])a|Penn|Tenn|(?-i:[T])ex|Va|Vt|(?-i:[W])ash|Wisc?|Wyo"
    "|Inc|Cos?|Corp|Pp?t(?-i:[ye])s?|Ltd|Plc|Rt|Bancorp|Bhd|Assn|Univ|Intl|Sys"
    "|Tel|Est|Ext|Sq|Jr|Sr|Bros|(?:Ed|Ph)\\.D|Blvd|Rd|Esq|etc|al|seq)\\."
)
_TITLE = (
    "Mrs?|Ms|(?-i:[M])iss|Drs?|Profs?|Sens?|Reps?|Attys?|Lt|Col|Gen|Messrs|Govs?|Adm|Rev|Maj|Sgt|Cpl|Pvt|Capt|Ste?|Ave|Pres"
    "|Lieut|Hon|Brig|Co?mdr|Pfc|Spc|Supts?|Det|Mt|Ft|Adj|Adv|Asst|Assoc|Ens|Insp|Mlle|Mme|Msgr|Sfc"
)
_ACRONYM = (
    "(?:(?i:(?:Canada|Sino|Korean|EU|Japan|non)-U\\.S|U\\.S\\.-(?:U\\.K|U\\.S\\.S\\.R))|[A-Za-z](?:\\.[A-Za-z])*)"
)
_ACRONYM_2 = "(?:(?i:(?:Canada|Sino|Korean|EU|Japan|non)-U\\.S)|[A-Za-z](?:\\.[A-Za-z])+)"
_ABBREVIATION_4 = f"(?:(?i:{_TITLE}|vs|Alex|Wm|Jos|Cie|a\\.k\\.a|cf|TREAS|Invt|Elec|Natl|M(?-i:[ft])g)|{_ACRONYM})"
_NUMBERED = "(?i:ca|figs?|prop|nos?|art|bldg|pp|op)\\."
_MAYBE_ABBREVIATION = re.compile(f"{_ABBREVIATION_1}|{_ABBREVIATION_4}\\.|{_NUMBERED}|(?i:So|No)\\.")
_URL_END = '[^ \t\n\f\r"<>|.!?(){},-]'
_SMILEY = "[<>]?[:;=][-o*']?[()DPdpO\\\\{@|\\[\\]]"


@dataclass(frozen=True)
class _Rule:
    """A token's pattern (group 1) with its trailing context, and how the matched text becomes a token."""

    pattern: re.Pattern[str]
    emit: Callable[[str], tuple[str, int]]
    """The token to write and how many characters it uses up; the rest of the match is read again."""


def _whole(text: str) -> tuple[str, int]:
    return text, len(text)


def _as(token: str) -> Callable[[str], tuple[str, int]]:
    return lambda text: (token, len(text))


def _all_but(count: int) -> Callable[[str], tuple[str, int]]:
    return lambda text: (text[:-count], len(text) - count)


_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}


def _bracketed(text: str) -> tuple[str, int]:
    return text.replace("(", "-lrb-").replace(")", "-rrb-"), len(text)


_CURRENCY = {
    "\u00a2": "cents",
    "\u00a3": "#",
    "\u20a4": "#",
    "\u00a4": "$",
    "\u0080": "$",
    "\u20a0": "$",
    "\u20ac": "$",
}


def _currency(text: str) -> tuple[str, int]:
    return _CURRENCY.get(text, text), len(text)


def _fraction(text: str) -> tuple[str, int]:
    return unicodedata.normalize("NFKC", text).replace("\u2044", "/"), len(text)


def _straight(text: str) -> tuple[str, int]:
    return re.sub(_APOS_ETC, "'", text), len(text)


_QUOTES = str.maketrans({"\u201c": "``", "\u201d": "''", "\u2018": "`", "\u2019": "'"})


def _quotes(text: str) -> tuple[str, int]:
    return text.translate(_QUOTES), len(text)


@cache
def _letters() -> str:
    """A character class body with every letter of the basic plane, built once from the Unicode tables."""
    codes = [code for code in range(0x10000) if unicodedata.category(chr(code)) in ("Lu", "Ll", "Lt", "Lm", "Lo")]
    ranges, start = [], codes[0]
    for code, following in zip(codes, [*codes[1:], -1], strict=True):
        if following != code + 1:
            ranges.append(f"{chr(start)}-{chr(code)}")
            start = following
    return "".join(ranges)


@cache
def _rules() -> tuple[_Rule, ...]:
    """The rules in order of precedence; compiled on first use because the letter classes are large."""
    letter = f"(?:[{_letters()}\u00ad\u0300-\u036f]|&[aeiouAEIOU](?i:acute|grave|uml);)"
    plain = f"[{_letters()}]"
    word = f"{letter}(?:{letter}|\\d)*(?:[.!?]{letter}(?:{letter}|\\d)*)*"
    number = "[-+]?(?:\\d*(?:[.:,\u00ad\u066b\u066c]\\d+)+|\\d+)"
    thing = f"(?:[dDoOlL]{_APOS_ETC}(?:{letter}|\\d))?(?:{letter}|\\d)+"
    apostrophe_word = (
        f"{_APOS}(?i:n){_APOS}?|[lLdDjJ]{_APOS}|(?i:Dunkin|somethin|ol){_APOS}|{_APOS}(?i:em)"
        f"|[A-HJ-XZn]{_APOS_ETC}{plain}{{2,}}|{_APOS}[2-9]0(?i:s)|{_APOS}(?i:till?)"
        f"|{plain}+[aeiouyAEIOUY]{_APOS_ETC}[aeiouA-Z]{plain}*|{_APOS}(?i:cause)|(?i:cont'd\\.?|nor'easter|c'mon|e'er|s'mores|ev'ry|li'l|nat'l)"
        f"|(?i:O){_APOS_ETC}(?i:o)"
    )
    table: list[tuple[str, str, Callable[[str], tuple[str, int]]]] = [
        ("(?i:cannot)", "", _all_but(3)),
        (f"{_APOS}(?i:tis)", "", _all_but(2)),
        (f"{_APOS}(?i:twas)", "", _all_but(3)),
        ("(?i:c\\+\\+|c#|f#)", "", _whole),
        ("(?i:gonna|gotta|lemme|gimme|wanna)", "", _all_but(2)),
        ("<(?:[!?][A-Za-z-][^>\r\n]*|/?[A-Za-z][A-Za-z0-9:.-]*(?:[ ][^>\r\n]*)?/?[ ]*)>", "", _whole),
        ("&(?i:MD|mdash|ndash);|[\u0096\u0097\u2013\u2014\u2015]", "", _as("--")),
        ("(?i:&amp;)", "", _as("&")),
        ("&(?i:HT|TL|UR|LR|QC|QL|QR|odq|cdq|#[0-9]+);", "", _whole),
        (word, _CLITIC, _whole),
        ("[A-Za-z\u00ad]*[A-MO-Za-mo-z]\u00ad*", _NEGATION, _whole),
        (word, "", _whole),
        (apostrophe_word, "", _whole),
        (f"(?i:y){_APOS}", plain, _whole),
        ('(?i:https?)://[^ \t\n\f\r"<>|(){}]+[^ \t\n\f\r"\'<>|.!?(){},-]', "", _whole),
        (
            '(?:(?i:www)\\.(?:[^ \t\n\f\r`"<>|.!?(){},]+\\.)+[a-zA-Z]{2,4}|(?:[^ \t\n\f\r`"<>|.!?(){},\\-_$]+\\.)+(?i:com|net|org|edu))'
            f'(?:/[^ \t\n\f\r"<>|(){{}}]+{_URL_END})?',
            "",
            _whole,
        ),
        (
            '(?i:&lt;|<)?[a-zA-Z0-9][^ \t\n\f\r"<>|()\u00a0]*@(?:[^ \t\n\f\r"<>|().\u00a0]+\\.)*[^ \t\n\f\r"<>|().\u00a0]+(?i:&gt;|>)?',
            "",
            _whole,
        ),
        ("@[a-zA-Z_][a-zA-Z_0-9]*|#[a-zA-Z_][a-zA-Z_0-9]*", "", _whole),
        (_CLITIC, "[^A-Za-z]", _straight),
        (_NEGATION, "[^A-Za-z]", _straight),
        ("\\d{1,2}[-/]\\d{1,2}[-/]\\d{2,4}", "", _whole),
        (number, "", _whole),
        ("[\u207a\u207b\u208a\u208b]?(?:[\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+|[\u2080-\u2089]+)", "", _whole),
        ("(?:\\d{1,4}[- \u00a0])?\\d{1,4}(?:\\\\?/|\u2044)\\d{1,4}", "", _whole),
        ("[\u00bc\u00bd\u00be\u2153-\u215e]", "", _fraction),
        (
            f"(?i:-(?:RRB|LRB|RCB|LCB|RSB|LSB)-|C\\.D\\.s|pro-|anti-|S(?:&|&amp;)P-500|S(?:&|&amp;)Ls|Cap{_APOS}n|c{_APOS}est)",
            "",
            _whole,
        ),
        (f"{_APOS}[0-9][0-9]", _SPACE_OR_BREAK, _whole),
        ("[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}(?:\\\\?/[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}){1,2}", "", _whole),
        ("[A-Z]*\\$|#", "", _whole),
        ("[\u00a2-\u00a5\u0080\u20a0\u20ac\u060b\u0e3f\u20a4\uffe0\uffe1\uffe5\uffe6]", "", _currency),
        (_ABBREVIATION_1, f"{_SPACE}(?:{_SPACE}|[A-Z])", _whole),
        (_ABBREVIATION_1, "[^\\r][^\\r]", _whole),
        (_ABBREVIATION_1, "", _whole),
        (f"{_ABBREVIATION_4}\\.", "", _whole),
        (_ABBREVIATION_4, _SPACE, _whole),
        (_ACRONYM, f"{_SPACE_OR_BREAK}+", _whole),
        (_NUMBERED, f"{_SPACE_OR_BREAK}?\\d", _whole),
        ("(?i:So|No)\\.", f"{_SPACE_OR_BREAK}+(?i:Africa|Korea|Cal)", _whole),
        (
            "(?:\\([0-9]{2,3}\\)[ \u00a0]?|(?:\\+\\+?)?(?:[0-9]{2,4}[- \u00a0])?[0-9]{2,4}[- \u00a0])[0-9]{3,4}[- \u00a0]?[0-9]{3,5}"
            "|(?:(?:\\+\\+?)?[0-9]{2,4}\\.)?[0-9]{2,4}\\.[0-9]{3,4}\\.[0-9]{3,5}",
            "",
            _bracketed,
        ),
        ('"|(?i:&quot;)', "[A-Za-z0-9$]", _as("``")),
        ('"|(?i:&quot;)', "", _as("''")),
        ("<|(?i:&lt;)", "", _as("<")),
        (">|(?i:&gt;)", "", _as(">")),
        (_SMILEY, "[^A-Za-z]", _bracketed),
        (
            "[\\^x=~<>]\\.\\[\\^x=~<>]|[-\\^x=~<>']_[-\\^x=~<>']|\\([-\\^x=~<>'][_.]?[-\\^x=~<>']\\)|\\([\\^x=~<>']-[\\^x=~<>'`]\\)",
            "",
            _bracketed,
        ),
        ("[()\\[\\]{}]", "", lambda text: (_BRACKETS[text], 1)),
        ("-+", "", lambda text: ("-" if len(text) == 1 else "--", len(text))),
        ("\\.{3,5}|(?:\\.[ \u00a0]){2,4}\\.|[\u0085\u2026]", "", _as("...")),
        ("@+|#+|_+", "", _whole),
        ("\\*+|(?:\\\\\\*){1,3}", "", _whole),
        ("[,;:\u3001]", "", _whole),
        ("[?!]+", "", _whole),
        ("[.\u00a1\u00bf\u037e\u0589\u061f\u06d4\u0700-\u0702\u07fa\u3002]", "", _whole),
        ("=", "", _whole),
        ("/", "", _whole),
        (f"[A-Za-z0-9][A-Za-z0-9.,\u00ad]*(?:-(?:[A-Za-z0-9\u00ad]+|{_ACRONYM_2}\\.))+", "[^A-Za-z0-9.+]", _whole),
        (f"[A-Za-z0-9][A-Za-z0-9.,\u00ad]*(?:-(?:[A-Za-z0-9\u00ad]+|{_ACRONYM_2}\\.))+", "", _whole),
        (f"{thing}(?:{_HYPHEN}{thing})*", "", _whole),
        ("[A-Z]+(?:(?:[+&]|(?i:&amp;))[A-Z]+)+", "", _whole),
        ("'", "[A-Za-z][^ \t\n\r\u00a0]", _as("`")),
        (_CLITIC, "", _straight),
        (_NEGATION, "", _straight),
        (f"{_APOS}|''|[`\u2018-\u201f\u0091-\u0094\u2039\u203a\u00ab\u00bb]{{1,2}}", "", _quotes),
        ("<<|>>", "", _whole),
        (
            "[+%&~^|\\\\\u00a6-\u00a9\u00ac\u00ae-\u00b8\u00ba\u00d7\u00f7\u2016-\u2023\u2030-\u2038\u203b\u203e-\u2044\u207a-\u207f\u208a-\u208e\u2100-\u214f\u2190-\u2bff\u3012\u30fb\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65]",
            "",
            _whole,
        ),
    ]
    return tuple(_Rule(re.compile(f"({pattern}){trail}"), emit) for pattern, trail, emit in table)


def ptb_tokenize(text: str) -> str:
    """Tokenise one caption: lower-cased words without punctuation, joined by single spaces.

    >>> ptb_tokenize("A dog's toy (blue), isn't it?")
    "a dog 's toy -lrb- blue -rrb- is n't it"
    """
    return _line(text.replace("\n", " "), "\n")


def ptb_tokenize_corpus(texts: Sequence[str]) -> list[str]:
    """Tokenise captions as the lines of one file, as pycocoevalcap does.

    Two things depend on the neighbours: "no." before a line that begins with a digit is an abbreviation, and the very
    last line, which no line break follows, ends differently. Other line separators inside a caption are spaces here;
    in the reference they would shift all following captions.
    """
    lines = [text.replace("\n", " ") for text in texts]
    ends = ["\n" + line[:_LOOKAHEAD] for line in lines[1:]] + [""]
    return [_line(line, end) for line, end in zip(lines, ends, strict=True)]


def _line(text: str, following: str) -> str:
    """Tokenise a line given what comes after it, as far as any rule looks ahead."""
    if text.isascii() and _PLAIN.fullmatch(text) and not _abbreviated(text):
        return _plain_line(text)
    return " ".join(word for word in _tokens(text.translate(_BREAKS_TO_SPACES), following) if word not in DROPPED)


def _abbreviated(text: str) -> bool:
    """Whether the final period, if any, may belong to the last word."""
    return text.endswith(".") and _MAYBE_ABBREVIATION.fullmatch(text, text.rindex(" ") + 1) is not None


def _plain_line(text: str) -> str:
    """The common caption: bare words, possibly a final period. Nothing in it depends on its neighbours."""
    words = text.lower().removesuffix(".").split()
    if _SPLIT_WORDS.keys().isdisjoint(words):
        return " ".join(words)
    return " ".join(_SPLIT_WORDS.get(word, word) for word in words)


def _tokens(text: str, following: str) -> Iterator[str]:
    buffer, position, end = text + following, 0, len(text)
    rules = _rules()
    while position < end:
        if buffer[position] in _SKIPPED:
            position += 1
            continue
        best, best_total = None, 0
        for rule in rules:
            match = rule.pattern.match(buffer, position)
            if match and match.end() > best_total and match.end(1) > position:
                best, best_total, matched = rule, match.end(), match[1]
        if best is None:  # A character of no rule is deleted: the reference's "first delete" option.
            position += 1
            continue
        token, used = best.emit(matched)
        yield token.replace(" ", "\u00a0").lower()
        position += used
