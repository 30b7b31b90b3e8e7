"""Text that tokenizers get wrong: many scripts, code, numbers, space runs, combining marks, odd code points."""

from __future__ import annotations

import random

PARAGRAPHS = (
    "The quick brown fox doesn't jump; it's the dog's turn. We'll see: they've said I'd better, you're right.",
    "HE'LL SAY WE'RE LATE, AND IT'S TRUE; DON'T ASK WHY THEY'VE GONE.",
    "In 1984, 3.14159 and 2,718,281 were numbers; 0x1F, 1e-5, 007, 12345678901234567890 and ١٢٣٤ and ४५६ too.",
    "def f(x: int) -> str:\n    if x >= 10:\n\t\treturn f'{x!r}\\n'\n    return \"\"\n\n\n# done;  a=b//2;\tx[0]->y\n",
    '{"key": [1, 2.5, null, true], "nested": {"a": "b\\u00e9"}}  <html><body>&amp;</body></html>',
    "Größe, Übermut, naïve façade, Ångström, smørrebrød, żółć, İstanbul, ısı, œuvre, ﬁligree, ß.",
    "Съешь же ещё этих мягких французских булок, да выпей чаю. Україна, їжак, ґанок.",
    "Το γρήγορο καφέ αλεπού πηδάει πάνω από το τεμπέλικο σκυλί.",
    "敏捷的棕色狐狸跳过了懒狗。我今年二十三岁，住在北京。「引号」、顿号；全角ＡＢＣ１２３！",
    "いろはにほへと ちりぬるを。カタカナとひらがなと漢字が混ざる。ｶﾀｶﾅ",
    "다람쥐 헌 쳇바퀴에 타고파. 한국어 문장입니다.",
    "صِف خَلقَ خَودِ كَمِثلِ الشَمسِ إِذ بَزَغَت — العربية، وفارسی و اُردو؟",
    "דג סקרן שט בים מאוכזב ולפתע מצא חברה. עִבְרִית",
    "ऋषियों को सताने वाले दुष्ट राक्षसों के राजा। हिन्दी में लिखना।",
    "กขฃคฅฆง เป็นมนุษย์สุดประเสริฐเลิศคุณค่า ពាក្យខ្មែរ ພາສາລາວ",
    "Emoji: 😀😃 👩‍👩‍👧‍👦 👍🏽 🇩🇪🇫🇷 ❤️ ☕️ 🏳️‍🌈 ✅ ∑∫√∞≠≤ ½ ¾ ² ³ ₁ Ⅷ ①②",
    "Combining: e\u0301 a\u0308 o\u0302\u0323 Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢ n\u0303",
    "Spaces:  two   three    four     five\u00a0nbsp\u2003em\u3000ideographic\u200bzero\u202fnarrow\ufeffbom end ",
    "Lines:\n\nand\r\nmore\r\n\r\n\n \n  \n\t\n\v\f x\x85y\u2028z\n",
    "   leading, trailing   ",
    "----====____****....,,,,!!!!????''''\"\"\"\"````~~~~////\\\\\\\\((((]]]]{{{{ #### $$$ %%% ^^^ &&& @@@ +++",
    "hahahahaha abababababa aaaaaaaaaaaaaaaaaaaaaaa mmmmmmm banananana 1010101010101 ==-==-==",
    "Rare: \U0001d54f\U0001f9ff \U00020000\U0002a6d6 \ue000\uf8ff \ufffd \u0378 \u0000? \x01\x07\x1b[0m \x7f",
    "'S 'T 'RE 'VE 'M 'LL 'D 's't're've'm'll'd ' s ’s ’t",
    "▁▁ literal ▁lower one eighth block▁ <0x0A> <s> </s> <unk> <|endoftext|> <b>bold</b>",
    "",
    " ",
    "  ",
    "\n",
    "\n\n\n\n\n",
    "\t",
    "a",
    " a",
)


def texts(seed: int = 0, mixed: int = 200) -> list[str]:
    """The paragraphs, and random cuts and mixtures of them."""
    generator = random.Random(seed)
    joined = "\n".join(PARAGRAPHS)
    pieces = []
    for _ in range(mixed):
        cuts = [generator.randrange(len(joined)) for _ in range(generator.randint(1, 4))]
        glue = generator.choice(["", " ", "  ", "\n", "\t", "\n\n", "'", "1"])
        pieces.append(glue.join(joined[cut : cut + generator.randint(1, 40)] for cut in cuts))
    return [*PARAGRAPHS, *pieces]
