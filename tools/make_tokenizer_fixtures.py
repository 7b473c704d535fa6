#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tests/fixtures/tokenizers: a small tokenizer of each family that is read, and the tokens
it must make of texts chosen to hurt.

Usage: tools/make_tokenizer_fixtures.py (from anywhere). The same bytes every time. Shares no code
with elapse: it splits by hand-written scanning instead of regular expressions, and merges by
looking through all pairs.
"""
import json
import pathlib
import unicodedata

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests/fixtures/tokenizers"

PARAGRAPH = """\
The river keeps no record of the rain. It carries what it was given, and what it was given changes
it: a bank worn back, a stone turned over, the channel a little deeper than it was the year before.
Whoever reads the river reads everything that has ever fallen into it, and yet the river is never
larger than its bed. That's the thought behind these models; they don't store what they have read,
they're shaped by it. In 1995 we'd have called it a filter, and in 2023 it was called selective.
There isn't a list to search, there isn't a page to turn back to. There is only the water, and the
way that the water is moving now. "What did you forget?" someone asks the river. "I can't say," it
answers, "I've forgotten." (But it hasn't: the bend is still there, isn't it?)

    def flow(state, rain):
        return state * keep + rain * gain

Der Fluß führt Wasser über Kies. Река течёт медленно. 川は流れる。
"""
MERGES = 150

GPT2_CONTRACTIONS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")
LLAMA3_SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
                r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")

TEXTS = [
    "", " ", "  ", "   ", "\n", "\n\n", "\t", " \n ", "\r\n\r\n", "a", " a", "a ", "  a  b   c    ",
    "The river keeps no record of the rain.",
    "That's what they've said; we'd say it isn't. I'll go",
    "THAT'S WHAT THEY'VE SAID, I'LL 'S'T'RE'x '", "'\u017f 'tis o'clock ''s", "it\u2019s",
    "1 12 123 1234 12345678 3.14 1,000 x1y22z333",
    "\u0661\u0662\u0663\u0664 \u00bd\u00b2 \u2167 \u4e03",
    "def flow(state):\n    return state  # keep\n\n\n\tx\r\n  y\n   \n", "a\n\n  \n b",
    "!\n\n?\r\n x",
    "   \n\n   x", "a\u00a0b\u2003c\u3000d\u0085e\u180ef\u200bg\u2028h", "\u00a0\u00a0 x",
    "Flu\u00df f\u00fchrt \u00fcber", "fu\u0308hrt caf\u0065\u0301 \u212b \u1e9b\u0323",
    "a\u0300\u0301 \u0323\u0307 q\u0323\u0307", "\u1100\u1161\u11a8 \uac01",
    "\u0930\u0947\u0932 \u0e01\u0e33", "\u5ddd\u306f\u6d41\u308c\u308b\u3002\u6771\u4eac",
    "\u0420\u0435\u043a\u0430 \u0442\u0435\u0447\u0451\u0442",
    "\u05e9\u05dc\u05d5\u05dd, \u0645\u0631\u062d\u0628\u0627",
    "\U0001f600 \U0001f636\u200d\U0001f32b\ufe0f!! \U0001f468\u200d\U0001f469\u200d\U0001f467",
    "?!... (--) #$% a_b __init__ a-b=c~d", "\ufffd\ufffe\U0010ffff\x00\x01\x7f",
    "<|endoftext|>", "a<|endoftext|> b", "<|endoftext|><|endoftext|>x<|endoftex",
    "<|begin_of_text|>Hi",
    "x <mask> y", "x   <mask>  <sep>   y<sep>", "flood flooding aflood flood, flood_ flood",
    "riverbed <|padding|>", "the Cafe\u0301 caf\u00e9", " Zyzzyva", "Zyzzyva Zyzzyvas",
    "ab" * 60, "the " * 50, "a" * 300, " " * 100 + "x", "\n" * 70,
]

SPACES = set("\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000") | {
    chr(c) for c in range(0x2000, 0x200b)}


def space(c):
    return c in SPACES


def letter(c):
    return unicodedata.category(c)[0] == "L"


def number(c):
    return unicodedata.category(c)[0] == "N"


def other(c):
    return not (space(c) or letter(c) or number(c))


def run(text, at, test, most=None):
    end = at
    while end < len(text) and test(text[end]) and (most is None or end - at < most):
        end += 1
    return end


def whitespace(text, at):
    """\\s+(?!\\S)|\\s+"""
    end = run(text, at, space)
    return end if end == len(text) or end == at + 1 else end - 1


def gpt2_piece(text, at):
    for contraction in GPT2_CONTRACTIONS:
        if text.startswith(contraction, at):
            return at + len(contraction)
    begin = at + (text[at] == " ")
    for test in (letter, number, other):
        end = run(text, begin, test)
        if end > begin:
            return end
    return whitespace(text, at)


def llama3_piece(text, at):
    for contraction in GPT2_CONTRACTIONS:
        if text[at:at + len(contraction)].casefold() == contraction:
            return at + len(contraction)
    lead = at + (text[at] not in "\r\n" and not letter(text[at]) and not number(text[at]))
    end = run(text, lead, letter)
    if end > lead:
        return end
    if number(text[at]):
        return run(text, at, number, most=3)
    begin = at + (text[at] == " ")
    end = run(text, begin, other)
    if end > begin:
        return run(text, end, lambda c: c in "\r\n")
    blank = text[at:run(text, at, space)]
    newline = max(blank.rfind("\r"), blank.rfind("\n"))
    return at + newline + 1 if newline >= 0 else whitespace(text, at)


def cut(text, piece):
    at = 0
    while at < len(text):
        end = piece(text, at)
        yield text[at:end]
        at = end


def punctuation(c):
    return unicodedata.category(c)[0] == "P" or c in "$+<=>^`|~"


def runs_of(test, most=None, exactly=None):
    """Cuts out runs that pass the test, of a length if one is given; the rest stays whole."""
    def piece(text, at):
        def matches(i):
            end = run(text, i, test, most)
            return end if end > i and (exactly is None or end - i == exactly) else None
        if matches(at):
            return matches(at)
        end = at + 1
        while end < len(text) and not matches(end):
            end += 1
        return end
    return piece


def byte_characters():
    shown = [*range(0x21, 0x7f), *range(0xa1, 0xad), *range(0xae, 0x100)]
    characters, following = {}, 0x100
    for byte in range(256):
        characters[byte] = chr(byte if byte in shown else following)
        following += byte not in shown
    return characters


CHARACTERS = byte_characters()


def written(text):
    return "".join(CHARACTERS[byte] for byte in text.encode())


def gpt2_pieces(text):
    return [written(piece) for piece in cut(text, gpt2_piece)]


def llama3_pieces(text):
    return [written(piece) for piece in cut(text, llama3_piece)]


def falcon_pieces(text):
    digit = "0123456789".__contains__
    for part in cut(text, runs_of(punctuation)):
        for piece in gpt2_pieces(part):
            for inner in cut(piece, runs_of(number)):
                yield from cut(inner, runs_of(digit, most=3, exactly=3))


def joined(word, left, right):
    """The word with every occurrence of the pair, from the left, made one."""
    out, at = [], 0
    while at < len(word):
        pair = word[at:at + 2] == [left, right]
        out.append(left + right if pair else word[at])
        at += 2 if pair else 1
    return out


def train(text, count):
    """The merges that join the most frequent pair again and again; of equals, the first."""
    words = [list(piece) for piece in gpt2_pieces(text)]
    merges = []
    for _ in range(count):
        counts = {}
        for word in words:
            for pair in zip(word, word[1:]):
                counts[pair] = counts.get(pair, 0) + 1
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        words = [joined(word, *best) for word in words]
    return merges


def merged(word, ranks):
    word = list(word)
    while True:
        pairs = [(ranks[pair], at) for at, pair in enumerate(zip(word, word[1:])) if pair in ranks]
        if not pairs:
            return word
        _, at = min(pairs)
        word[at:at + 2] = [word[at] + word[at + 1]]


def added_token(token, content, special=False, **flags):
    return {"id": token, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": not special, "special": special, **flags}


def word_character(c):
    return unicodedata.category(c)[0] in "LM" or unicodedata.category(c) in ("Nd", "Nl", "Pc")


def cut_out(text, tokens):
    """[text or token number, ...]: the longest token at each place; `tokens` with their content."""
    parts, done, at = [], 0, 0
    while at < len(text):
        here = [t for t in tokens if text.startswith(t["content"], at)]
        if not here:
            at += 1
            continue
        token = max(here, key=lambda t: len(t["content"]))
        begin, end = at, at + len(token["content"])
        at = end
        beside = text[:begin][-1:] + text[end:][:1]
        if token["single_word"] and any(map(word_character, beside)):
            continue
        while token["lstrip"] and begin > done and space(text[begin - 1]):
            begin -= 1
        if token["rstrip"]:
            end = run(text, end, space)
        parts += [text[done:begin]] * (begin > done) + [token["id"]]
        done = at = end
    return parts + [text[done:]] * (done < len(text))


class Family:
    """A tokenizer: its file's settings and the slow way to its tokens."""

    def __init__(self, pieces, vocabulary, merges, added=(), nfc=False, ignore_merges=False,
                 prefix_space=False):
        self.pieces, self.vocabulary, self.merges = pieces, vocabulary, merges
        self.ranks = {pair: rank for rank, pair in enumerate(merges)}
        self.added, self.nfc, self.ignore_merges = list(added), nfc, ignore_merges
        self.prefix_space = prefix_space

    def normalized(self, text):
        return unicodedata.normalize("NFC", text) if self.nfc else text

    def encode(self, text):
        written_so = [t for t in self.added if not t["normalized"]]
        normalized = [{**t, "content": self.normalized(t["content"])}
                      for t in self.added if t["normalized"]]
        ids = []
        for part in cut_out(text, written_so):
            inner = [part] if isinstance(part, int) else cut_out(self.normalized(part), normalized)
            for piece in inner:
                ids += [piece] if isinstance(piece, int) else self.encode_plain(piece)
        return ids

    def encode_plain(self, text):
        if self.prefix_space and not text.startswith(" "):
            text = " " + text
        ids = []
        for piece in self.pieces(text):
            whole = self.ignore_merges and piece in self.vocabulary
            ids += [self.vocabulary[t] for t in ([piece] if whole else merged(piece, self.ranks))]
        return ids

    def cases(self):
        return [{"text": text, "ids": self.encode(text)} for text in TEXTS]

    def file(self, pre_tokenizer, post_processor=None, arrays=False):
        merges = [list(pair) if arrays else " ".join(pair) for pair in self.merges]
        model = {"type": "BPE", "dropout": None, "unk_token": None,
                 "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False,
                 "byte_fallback": False, "ignore_merges": self.ignore_merges,
                 "vocab": self.vocabulary, "merges": merges}
        return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": self.added,
                "normalizer": {"type": "NFC"} if self.nfc else None,
                "pre_tokenizer": pre_tokenizer, "post_processor": post_processor,
                "decoder": byte_level(), "model": model}


def byte_level(**changes):
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True,
            **changes}


def sequence(*steps):
    return {"type": "Sequence", "pretokenizers": list(steps)}


def split(regex):
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}


def numbered(tokens, first=0):
    return {token: first + i for i, token in enumerate(tokens)}


def gpt2(merges):
    tokens = [*CHARACTERS.values(), *("".join(pair) for pair in merges), "<|endoftext|>"]
    vocabulary = numbered(tokens)
    end = added_token(vocabulary["<|endoftext|>"], "<|endoftext|>", special=True)
    family = Family(gpt2_pieces, vocabulary, merges, [end])
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    return family, {"vocab.json": json.dumps(vocabulary), "merges.txt": "\n".join(lines) + "\n"}


def gpt_neox(merges):
    """Special tokens first, no bytes that UTF-8 has not, runs of spaces last."""
    not_in_text = (0xc0, 0xc1, *range(0xf5, 256))
    bytes_of_text = [c for byte, c in CHARACTERS.items() if byte not in not_in_text]
    names = ["<|endoftext|>", "<|padding|>"]
    vocabulary = numbered([*names, *bytes_of_text, *("".join(pair) for pair in merges)])
    added = [added_token(i, name, special=True) for i, name in enumerate(names)]
    contents = [*(" " * n for n in range(24, 1, -1)), "Cafe\u0301"]
    added += [added_token(len(vocabulary) + i, content) for i, content in enumerate(contents)]
    flags = [("<mask>", {"lstrip": True}), ("<sep>", {"rstrip": True}),
             ("flood", {"single_word": True})]
    added += [added_token(len(vocabulary) + len(contents) + i, content, special=True, **more)
              for i, (content, more) in enumerate(flags)]
    family = Family(gpt2_pieces, vocabulary, merges, added, nfc=True)
    old = byte_level()
    del old["use_regex"]
    return family, {"tokenizer.json": family.file(old, post_processor=byte_level())}


def llama3(merges):
    """A piece that is a token stays whole, though no merges lead to it; numbers with a gap."""
    whole = [written(" Zyzzyva"), written("Zyzzyva")]
    vocabulary = numbered([*CHARACTERS.values(), *("".join(pair) for pair in merges), *whole])
    names = ["<|begin_of_text|>", "<|endoftext|>"]
    added = [added_token(1000 + i, name, special=True) for i, name in enumerate(names)]
    family = Family(llama3_pieces, vocabulary, merges, added, ignore_merges=True)
    begin = {"SpecialToken": {"id": names[0], "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    template = {"type": "TemplateProcessing", "single": [begin, text], "pair": [],
                "special_tokens": {
                    names[0]: {"id": names[0], "ids": [1000], "tokens": [names[0]]}}}
    pre_tokenizer = sequence(split(LLAMA3_SPLIT), byte_level(use_regex=False))
    post_processor = {"type": "Sequence", "processors": [byte_level(), template]}
    return family, {"tokenizer.json": family.file(pre_tokenizer, post_processor, arrays=True)}


def falcon(merges):
    vocabulary = numbered([*CHARACTERS.values(), *("".join(pair) for pair in merges)], first=1)
    family = Family(falcon_pieces, vocabulary, merges,
                    [added_token(0, "<|endoftext|>", special=True)])
    pre_tokenizer = sequence({"type": "Punctuation", "behavior": "Contiguous"}, byte_level(),
                             {"type": "Digits", "individual_digits": False},
                             split("[0-9][0-9][0-9]"))
    return family, {"tokenizer.json": family.file(pre_tokenizer)}


def prefix_space(merges):
    tokens = [*CHARACTERS.values(), *("".join(pair) for pair in merges), "<|endoftext|>"]
    vocabulary = numbered(tokens)
    end = added_token(vocabulary["<|endoftext|>"], "<|endoftext|>", special=True)
    family = Family(gpt2_pieces, vocabulary, merges, [end], prefix_space=True)
    return family, {"tokenizer.json": family.file(byte_level(add_prefix_space=True))}


def main():
    merges = train(PARAGRAPH, MERGES)
    for make in (gpt2, gpt_neox, llama3, falcon, prefix_space):
        family, files = make(merges)
        folder = OUT / make.__name__
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in {**files, "cases.json": family.cases()}.items():
            text = content if isinstance(content, str) else json.dumps(content)
            (folder / name).write_text(text)


if __name__ == "__main__":
    main()
