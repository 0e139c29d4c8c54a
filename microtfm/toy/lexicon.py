"""The words of the toy language pair: every word that the toy grammar can say, Chinese beside English.

The tables are plain text, one word a line or between commas, read once at import. The capital letters at the end of
a line are kinds: a verb goes with the nouns, and an adjective with the nouns, that share a letter with it, so that
people read letters and drink tea but not the other way round.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple


class Pair(NamedTuple):
    """The same thing said in both languages."""

    zh: str
    en: str


@dataclass(frozen=True)
class Noun:
    """A noun and its measure word; `one` and `many` are what is counted, `bare` is the noun with no number."""

    zh: str
    one: str
    many: str
    bare: str
    measure: str
    kinds: str
    contained: bool = False


@dataclass(frozen=True)
class Verb:
    """A verb with its English forms, the kinds of object it takes and the kinds of place where it happens."""

    zh: str
    plain: str
    third: str
    past: str
    ing: str
    objects: str
    places: str


@dataclass(frozen=True)
class Adjective:
    """An adjective: `zh` after 很, `before` in front of a noun, `more` the comparative."""

    zh: str
    before: str
    en: str
    more: str
    kinds: str


@dataclass(frozen=True)
class Place:
    """A place where things happen (`where`) and where one goes (`to`)."""

    zh: str
    where: str
    to: str
    kinds: str


# T read, W written, F watched, E eaten, A animal, C worn, V vehicle, G gadget, U furniture, O small thing,
# S sung, H heard, R repaired, K washed, X sold in shops, Q person, J person with an occupation,
# P person one has, I looked at, D drawn, M made, N kept as a pet, Y ridden, Z lost and found, B drunk
NOUNS = """
书 book books 本 TWX
小说 novel novels 本 TWX
信 letter letters 封 TWO
报纸 newspaper newspapers 份 TXO
杂志 magazine magazines 本 TXO
故事 story stories 个 TWH
电影 movie movies 部 F
节目 program programs 个 F
比赛 game games 场 F
苹果 apple apples 个 EX
橙子 orange oranges 个 EX
鸡蛋 egg eggs 个 EX
蛋糕 cake cakes 个 EXM
香蕉 banana bananas 根 EX
三明治 sandwich sandwiches 个 EXM
饺子 dumpling dumplings 个 EM
土豆 potato potatoes 个 EX
西红柿 tomato tomatoes 个 EX
猫 cat cats 只 AN
狗 dog dogs 只 AN
鸟 bird birds 只 AN
兔子 rabbit rabbits 只 AN
马 horse horses 匹 AY
鱼 fish fish 条 A
羊 sheep sheep 只 A
牛 cow cows 头 A
老鼠 mouse mice 只 A
衬衫 shirt shirts 件 CXK
外套 coat coats 件 CXK
毛衣 sweater sweaters 件 CXK
裙子 skirt skirts 条 CXK
车 car cars 辆 VXRK
自行车 bicycle bicycles 辆 VXRYK
手机 phone phones 部 GXRO
电脑 computer computers 台 GXR
照相机 camera cameras 台 GXRO
手表 watch watches 块 XRO
桌子 table tables 张 UXR
椅子 chair chairs 把 UXR
床 bed beds 张 UX
雨伞 umbrella umbrellas 把 OXR
杯子 cup cups 个 OXK
刀 knife knives 把 OXK
钥匙 key keys 把 OZ
盒子 box boxes 个 OX
包 bag bags 个 OXZ
球 ball balls 个 OXZ
票 ticket tickets 张 OZ
花 flower flowers 朵 ODX
照片 photo photos 张 OZ
画 painting paintings 幅 XI
地图 map maps 张 OXZI
铅笔 pencil pencils 支 OX
歌 song songs 首 SHW
老师 teacher teachers 位 QJP
医生 doctor doctors 位 QJ
护士 nurse nurses 位 QJ
律师 lawyer lawyers 位 QJ
作家 writer writers 位 QJ
画家 artist artists 位 QJ
工程师 engineer engineers 位 QJ
演员 actor actors 位 QJ
学生 student students 个 QJP
司机 driver drivers 个 QJ
农民 farmer farmers 个 QJ
厨师 chef chefs 个 QJ
邻居 neighbor neighbors 位 QP
孩子 child children 个 Q
女孩 girl girls 个 Q
男孩 boy boys 个 Q
女人 woman women 个 Q
男人 man men 个 Q
"""

# What is counted by its vessel: 一杯茶 is a cup of tea.
CONTAINED = """
茶 tea 杯 cup B
咖啡 coffee 杯 cup B
热水 hot-water 杯 cup B
水 water 瓶 bottle BX
牛奶 milk 瓶 bottle BX
果汁 juice 瓶 bottle BX
啤酒 beer 瓶 bottle BX
米饭 rice 碗 bowl E
汤 soup 碗 bowl M
鞋 shoes 双 pair CXK
袜子 socks 双 pair CXK
"""

# Chinese, plain form, past, -ing form, particle or -, kinds of object, kinds of place
VERBS = """
看 read read reading - T HLPC
看 watch watched watching - F HP
写 write wrote writing - W HLC
买 buy bought buying - X MA
卖 sell sold selling - X M
吃 eat ate eating - E HRS
喝 drink drank drinking - B HRC
做 make made making - M HK
找 look looked looking for OZG HSO
用 use used using - G HLO
洗 wash washed washing - K H
修 repair repaired repairing - R H
画 draw drew drawing - AD HPS
听 listen listened listening to H HSP
唱 sing sang singing - S HSP
骑 ride rode riding - Y P
帮助 help helped helping - Q HSLO
等 wait waited waiting for Q AWC
"""

STATIVES = """
喜欢 like liked liking - TFEBACVGUODSQI -
爱 love loved loving - QAN -
需要 need needed needing - OGVBE -
认识 know knew knowing - Q -
有 have had having - TACVGUOI -
"""

ACTIVITIES = """
工作 work worked working - - SMWKRAL
睡觉 sleep slept sleeping - - H
跑步 run ran running - - PS
游泳 swim swam swimming - - T
跳舞 dance danced dancing - - HSP
唱歌 sing sang singing - - HSP
学习 study studied studying - - HLSC
休息 rest rested resting - - HOP
做饭 cook cooked cooking - - HR
散步 walk walked walking - - P
聊天 chat chatted chatting - - HCPO
画画 paint painted painting - - HPS
"""

# Chinese, where, to where, kinds: H home, S school, L quiet, P outdoors, M market, R meals, C coffee, O office,
# K kitchen, W work, A arrivals, T town
PLACES = """
家 at-home home H
学校 at-school to-school S
公园 in-the-park to-the-park P
花园 in-the-garden to-the-garden P
图书馆 in-the-library to-the-library L
教室 in-the-classroom to-the-classroom L
商店 at-the-store to-the-store M
超市 at-the-supermarket to-the-supermarket M
市场 at-the-market to-the-market M
饭馆 at-the-restaurant to-the-restaurant R
咖啡馆 at-the-coffee-shop to-the-coffee-shop C
办公室 in-the-office to-the-office O
医院 at-the-hospital to-the-hospital W
银行 at-the-bank to-the-bank W
车站 at-the-station to-the-station A
机场 at-the-airport to-the-airport A
厨房 in-the-kitchen to-the-kitchen K
北京 in-Beijing to-Beijing TW
上海 in-Shanghai to-Shanghai TW
中国 in-China to-China TW
法国 in-France to-France TW
日本 in-Japan to-Japan TW
"""

ADJECTIVES = """
新 新 new newer TCVGU
旧 旧 old older TCVGU
大 大 big bigger EACVU
小 小 small smaller EACVU
贵 很贵的 expensive more-expensive CVGUXY
便宜 便宜的 cheap cheaper CVGUX
漂亮 漂亮的 beautiful more-beautiful CVDAI
有意思 有意思的 interesting more-interesting TF
长 很长的 long longer TF
可爱 可爱的 cute cuter AN
重 很重的 heavy heavier UG
好吃 好吃的 delicious more-delicious E
高 很高的 tall taller Q
年轻 年轻的 young younger Q
忙 很忙的 busy busier Q
聪明 聪明的 clever cleverer Q
有名 有名的 famous more-famous J
"""

# Where things lie: O small things and food, N animals, Q people and animals
SPOTS = """
桌子上 on-the-table O
椅子上 on-the-chair O
床上 on-the-bed O
床下面 under-the-bed ON
桌子下面 under-the-table ON
盒子里 in-the-box O
包里 in-the-bag O
房间里 in-the-room OQ
厨房里 in-the-kitchen OQ
教室里 in-the-classroom Q
花园里 in-the-garden Q
树下面 under-the-tree OQ
门后面 behind-the-door OQ
学校旁边 next-to-the-school Q
窗户旁边 next-to-the-window OQ
医院前面 in-front-of-the-hospital Q
"""

# Pronoun, subject, object, possessive, agreement (I am, you are, he is)
PRONOUNS = """
我 I me my I
你 you you your you
他 he him his he
她 she her her he
我们 we us our you
你们 you you your you
他们 they them their you
"""

NAMES = """
安娜 Anna, 汤姆 Tom, 玛丽 Mary, 大卫 David, 露西 Lucy, 约翰 John
"""

KIN = """
妈妈 mother, 爸爸 father, 奶奶 grandmother, 爷爷 grandfather, 哥哥 older-brother, 姐姐 older-sister,
弟弟 younger-brother, 妹妹 younger-sister, 朋友 friend
"""

PAST = """
昨天 yesterday, 前天 the-day-before-yesterday, 昨天晚上 last-night, 上个星期 last-week,
上个月 last-month, 去年 last-year, 两天前 two-days-ago, 三天前 three-days-ago, 五年前 five-years-ago,
上个星期五 last-Friday
"""

FUTURE = """
明天 tomorrow, 后天 the-day-after-tomorrow, 明天早上 tomorrow-morning, 今天晚上 tonight,
下个星期 next-week, 下个月 next-month, 明年 next-year, 下个星期一 next-Monday
"""

HABITS = """
每天 every-day, 每天早上 every-morning, 每天晚上 every-evening, 每个星期天 every-Sunday,
每个星期六 every-Saturday
"""

ADVERBS = """
常常 often, 总是 always, 有时候 sometimes, 很少 rarely
"""

NUMBERS = """
两 two, 三 three, 四 four, 五 five, 六 six, 七 seven, 八 eight, 九 nine, 十 ten
"""

RIDES = """
坐火车 by-train, 坐飞机 by-plane, 坐地铁 by-subway, 坐船 by-boat, 坐公共汽车 by-bus
"""


def rows(table: str) -> list[list[str]]:
    """The cells of a table; a hyphen inside an English cell stands for a space, a lone one for nothing."""
    entries = re.split(r",?\n|, ", table.strip())
    return [["" if cell == "-" else cell.replace("-", " ") for cell in entry.split()] for entry in entries]


def pairs(table: str) -> tuple[Pair, ...]:
    """A two-column table."""
    return tuple(Pair(*row) for row in rows(table))


def third_person(plain: str) -> str:
    """The form after he, she or it: `has`, `washes`, `studies`, `reads`."""
    if plain == "have":
        return "has"
    if plain.endswith(("sh", "ch", "s", "x", "o")):
        return plain + "es"
    if plain.endswith("y") and plain[-2] not in "aeiou":
        return plain[:-1] + "ies"
    return plain + "s"


def verbs(table: str) -> tuple[Verb, ...]:
    """A table of verbs; the particle joins every English form."""
    made = []
    for zh, plain, past, ing, particle, objects, places in rows(table):
        plain, third, past, ing = (
            f"{form} {particle}".strip() for form in (plain, third_person(plain), past, ing)
        )
        made.append(Verb(zh, plain, third, past, ing, objects, places))
    return tuple(made)


def nouns() -> tuple[Noun, ...]:
    """All nouns, those counted by themselves and those counted by a vessel."""
    plain = [Noun(zh, one, many, many, measure, kinds) for zh, one, many, measure, kinds in rows(NOUNS)]
    contained = [
        Noun(zh, f"{vessel} of {bare}", f"{vessel}s of {bare}", bare, measure, kinds, contained=True)
        for zh, bare, measure, vessel, kinds in rows(CONTAINED)
    ]
    return (*plain, *contained)
