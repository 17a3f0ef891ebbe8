"""Words that carry no topic, by language, and a guess at a query's language. Pure.

The lists are closed classes (articles, pronouns, prepositions, auxiliaries, question words), short
on purpose: leaving one out costs little, taking a content word in would hide it.
"""

# ruff: noqa: RUF001, SIM905 (letters of other scripts are the point; a list a word is unreadable)

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["ENGLISH", "OTHER_SCRIPT", "detect_language", "is_stop_word"]

ENGLISH = "en"
OTHER_SCRIPT = "other"
"""Any language whose script is not Latin: such scripts need no guess, their lists never clash."""

_MIN_VOTES = 2
_ENGLISH_VOTERS = frozenset(
    "about after all among been between but can did during each has have he her his if into many "
    "more most no not over s she some such than their them there these they through under up used "
    "using we would you".split()
)
"""Too meaningful to be left out of queries, but a sign of English."""

_LETTERS = {
    "de": frozenset("äß"),
    "es": frozenset("ñ"),
    "pl": frozenset("ąćęłńśźż"),
    "pt": frozenset("ãõ"),
    "ro": frozenset("ășţț"),
    "sv": frozenset("å"),
    "tr": frozenset("ığş"),
    "vi": frozenset("đơưạảấầậắặếềểệịọộớờợụủứừự"),
}
"""Letters that only some of the listed languages write: a word with one is a vote."""

_FIRST_OTHER_SCRIPT = "\u0370"
_FIRST_HAN = "\u3400"
_HAN_FUNCTION_CHARACTERS = frozenset("的了是在和与被为什么哪谁多少之有")

_LATIN = {
    ENGLISH: frozenset(
        "a an and are as at be by do does for from how in is it its of on or that the this to was "
        "were what when where which who why will with".split()
    ),
    "de": frozenset(
        "aber alle als also am an auch auf aus bei beim bis das dass dem den der des die "
        "dies diese dieser durch ein eine einem einen einer eines er es für gegen haben hat "
        "hatte hatten ihr ihre im in ist ja kann man mehr mit nach nicht noch nur ob oder "
        "sich sie sind so um und unter viel viele vom von vor wann war waren warum was "
        "welche welchem welchen welcher welches wem wen wenn wer werden wessen wie wieviel "
        "wird wo wurde wurden zu zum zur zwischen über".split()
    ),
    "es": frozenset(
        "a al como con cual cuales cuando cuanto cuál cuáles cuándo cuánta cuántas cuánto "
        "cuántos de del desde donde dónde el ella en entre era es esta este esto está fue "
        "fueron ha han hay la las le lo los muy más ni no o para pero por porque que quien "
        "quién quiénes qué se ser si sin sobre son su sus también te tiene un una uno y ya".split()
    ),
    "fr": frozenset(
        "a au aux avec c ce ces cette combien comme comment d dans de des du elle en est et "
        "eu il ils je l la le les leur lui mais n ne nous on ou où par pas plus pour "
        "pourquoi qu quand que quel quelle quelles quels qui s sa se ses son sont sur un "
        "une vous y à était été".split()
    ),
    "it": frozenset(
        "a ai al alla alle anche che chi ci come con cosa cui da dal dalla dei del della "
        "delle di dove e era gli ha hanno i il in la le lo loro ma nel nella non o per "
        "perché più qual quale quali quando quante quanti quanto se si sono su sua suo tra "
        "un una uno è".split()
    ),
    "pt": frozenset(
        "a ao aos as com como da das de do dos e ela ele em entre era esta está foi foram "
        "há isso já mais mas na nas no nos não o onde os ou para pela pelo por porque quais "
        "qual quando quantas quanto quantos que quem se sem ser seu seus sua são também tem "
        "um uma às é".split()
    ),
    "nl": frozenset(
        "aan als bij dan dat de den der deze die dit door een en er had hebben heeft het "
        "hij hoe hoeveel hun in is je kan maar meer met naar niet nog of om onder ook op "
        "over te tot uit van veel voor waar waarom wanneer was wat welk welke werd werden "
        "wie worden wordt ze zich zijn".split()
    ),
    "ro": frozenset(
        "a această acest ai al ale are as asupra au avut ca care ce cea cei cel cele cine "
        "cu cum când cât câte câți că către dar de despre din după ei el ele era este eu "
        "face fi fost fără la le lor lui mai nu o pe pentru prin s sa sau se spre sub sunt "
        "să un unde unei unui în într între".split()
    ),
    "tr": frozenset(
        "ama ancak bazı ben bir biri bu da daha de diye en gibi göre hangi hangisi hem her "
        "idi ile ise için kadar kaç kaçtır ki kim kimdi kimdir kimin mi miydi mu mü mı "
        "nasıl ne neden nedeniyle nedir neler nerede nerededir nereye neydi o olan olarak "
        "oldu olduğu olduğunu olması olur sonra tarafından tarihinde ve veya ya yer çok şey".split()
    ),
    "vi": frozenset(
        "ai bao bằng bị cho các cái có cùng cũng của gì hay hơn khi không là làm lại mà một "
        "người nhiêu nhiều như những nào này nó năm ra rằng sao sau sẽ theo thì thế thể "
        "trong trên tại từ việc và vào vì về với đang đâu đã đó được đến để ở".split()
    ),
    "pl": frozenset(
        "a albo ale być był była było co czy czym dla do gdzie go i ich ile ja jak jaka "
        "jaki jakie jako jego jej jest kiedy kto która które którego której który którym ma "
        "na nad nie niż o od oraz po pod przez przy się są ta tak tego tej ten to tym w we "
        "z za ze został że".split()
    ),
    "sv": frozenset(
        "att av de dem den det en ett från för ha hade han har hon hur i in inte kan man "
        "med men när och om på sin som till ur vad var varför vem vid vilka vilken vilket "
        "är".split()
    ),
    "id": frozenset(
        "ada adalah akan apa atau bagaimana berapa dalam dan dari dengan di ini itu juga "
        "kapan karena ke kepada mana mengapa oleh pada para sebagai siapa telah tidak untuk "
        "yang".split()
    ),
}

_OTHER = frozenset(
    "а без был была были было в вам вас весь во вот все всего вы где да для до его ее если "
    "есть её же за и из или им их к как какая какие каким какими каких какого какое какой "
    "какому какую когда кого кому которая которого которые который кто куда ли между меня "
    "мне может мы на над не него нет ни но о об он она они оно от по под почему при с "
    "сколько со так также такое то того том тот у уже чего чем что чтобы эта эти это этого "
    "этой этом этот я ένα έναν ένας έχει έχουν ή ήταν αν από αυτή αυτό αυτός για δεν είναι "
    "είχε ενώ η και κατά μία με μετά μια να ο οι πιο ποια ποιες ποιο ποιοι ποιον ποιος που "
    "πού προς πως πόσα πόσες πόσο πόσοι πότε πώς σαν σε στα στη στην στις στο στον στους τα "
    "τη την της τι τις το τον του τους των ως όπως όταν ότι أن أو أي أين إلى إن ال التي "
    "الذي الذين بعد به بها بين تم ثم حتى حيث خلال ذلك على عن عند عندما في فيه فيها قبل قد "
    "كان كانت كل كم كما كيف لا لم لماذا ما ماذا متى مع من منذ منها هذا هذه هل هم هو هي و "
    "وقد يتم अपने इन इस उन उस उसके एक और कब कर करता करते करने कहा कहाँ का कितना कितनी कितने "
    "किया किस किसने किसी की के कैसे को कौन क्या क्यों गई गए गया जब जो तक तो था थी थे द्वारा "
    "ने पर भी में यह या ये रहा लिए वह वाले वे सा साथ से ही हुआ हुई हुए है हैं हो होता होती".split()
)
"""Russian, Greek, Arabic and Hindi."""


def detect_language(words: Iterable[str]) -> str:
    """Return the language that a query shows most signs of, ``en`` unless another is clear.

    A sign is a distinct stop word, or a word with a letter of that language. Another Latin-script
    language needs two signs (one, beside a letter outside ASCII) and more of them than English; a
    query mostly in another script is OTHER_SCRIPT.
    """
    distinct = frozenset(words)
    other_script = sum(word >= _FIRST_OTHER_SCRIPT for word in distinct)
    if 2 * other_script > len(distinct):
        return OTHER_SCRIPT
    votes = {language: len(distinct & listed) for language, listed in _LATIN.items()}
    votes[ENGLISH] += len(distinct & _ENGLISH_VOTERS)
    for language, letters in _LETTERS.items():
        votes[language] += sum(not letters.isdisjoint(word) for word in distinct)
    best = max(votes, key=lambda language: (votes[language], language == ENGLISH))
    needed = _MIN_VOTES - (not all(word.isascii() for word in distinct))
    return best if votes[best] >= needed else ENGLISH


def is_stop_word(word: str, language: str = ENGLISH) -> bool:
    """Say whether a word (as ``text.split_words`` cuts it) carries no topic in ``language``."""
    if language == OTHER_SCRIPT:
        is_han = word >= _FIRST_HAN
        return word in _OTHER or (is_han and not _HAN_FUNCTION_CHARACTERS.isdisjoint(word))
    return word in _LATIN[language]
