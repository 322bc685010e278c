"""Names and postal addresses, as far as rules go: where the text itself says that one follows.

Whether "Chase" is a person, a bank or a verb is told by no rule. So a name is found only after what announces one: a
title (Dr., 先生), a greeting (Dear, Hi), a signature (Regards), a phrase (my name is, 我叫), a label (Name:, 姓名：).
An address is found by its parts: a number beside a word for a street or a flat, or China's 省市区 ... 路 ... 号. Names
in the middle of a story stay: what needs them gone needs a model (`presidio`, or a tagger), and the measured recall of
these rules says by how much.
"""

import re
from collections.abc import Iterator

from penjing.serving.safety.findings import Finding

_CAPITAL = r"[A-Z\u00c0-\u00de\u0100-\u017f\u0391-\u03a9\u0410-\u042f]"
_WORD = rf"{_CAPITAL}[\w'’-]*\w"
_PARTICLE = r"(?:de|del|van|von|der|den|da|di|la|le|bin|al)(?=[ \t])"
_NAME = rf"(?:{_WORD}|{_CAPITAL}\.)(?:[ \t](?:{_WORD}|{_CAPITAL}\.|{_PARTICLE})){{0,3}}"
_SURNAMES = (
    "王李张刘陈杨黄赵吴周徐孙马朱胡郭何林罗高梁郑谢宋唐许韩冯邓曹彭曾萧田董袁潘蒋蔡余杜叶程苏魏吕丁任沈姚卢姜崔钟谭陆"
    "汪范金石廖贾夏韦付方白邹孟熊秦邱江尹薛阎段雷侯龙史陶黎贺顾毛郝龚邵万钱严"
)
_NOT_NAMES = re.compile(
    r"(?:There|All|Every(?:one|body)|Team|Sir|Madam|Guys|Folks?|Friends?|Again|Th(?:e|is|at|anks?)|It|If|Wh(?:at|ich|o|en"
    r"|ere|y)|How|Please|C(?:an|ould)|W(?:ould|ill|e)|Not?|And|But|Or|So|Just|Yes|You|They|S?He|I)\b"
)
_TITLE = r"(?:Mr|Mrs|Ms|Miss|Mx|Dr|Prof|Sir|Madam|Professor|Doctor)\b\.?[ \t]"
_ANNOUNCED = re.compile(
    r"(?:\b(?i:my name(?:'s| is)|(?:his|her|their) name is|name[ds]?:|i am called|signed by"
    r"|written by|directed by|starring|dear|hello|hi|hey|regards,|sincerely,|cheers,|best,|patient:|customer:"
    rf")[ \t\n]{{1,3}}(?:{_TITLE})?|\b{_TITLE})({_NAME})"
)
_CHINESE = re.compile(
    r"(?:姓名|联系人|收件人|收货人|户名|署名|患者|客户)[:：是为]?\s?([\u4e00-\u9fff·]{2,8}?)(?=[\s,，。；;、(（:：]|先生|女士|$)"
    rf"|(?:我(?:的名字)?(?:叫做?|姓名是)|名叫)([{_SURNAMES}][\u4e00-\u9fff]{{1,2}})(?![\u4e00-\u9fff])"
    rf"|([{_SURNAMES}][\u4e00-\u9fff]{{0,2}})(?=先生|女士|小姐|医生|教授|经理|主任)"
)
_STREET = (
    r"(?:Street|St|Avenue|Ave|Road|Rd|Lane|Ln|Drive|Dr|Boulevard|Blvd|Way|Court|Ct|Place|Pl|Square|Sq|Squares|Terrace"
    r"|Crescent|Highway|Hwy|Parkway|Close|Circle|Trail|Alley|Row|Walk|Plaza)"
)
_UNIT = r"(?:Apt|Apartment|Suite|Ste|Unit|Flat|Floor|Room)\.? ?#?\d{1,5}[A-Za-z]?\b"
_ADDRESS = re.compile(
    rf"\b\d{{1,6}}[A-Za-z]?,? (?:[\w.'’-]+ ){{1,4}}{_STREET}\b\.?(?:,?\s+{_UNIT})?"
    rf"|\b{_UNIT}"
    r"|\bP\.? ?O\.? ?Box \d{1,6}\b|\bPSC \d{1,5},? Box \d{1,6}\b"
    r"|\b(?:ul\.|al\.|Rue|Via|Calle|Avenida|Rua|Plaza|Piazza) (?:[\w.'’-]+ ){1,4}\d{1,5}\b"
    r"|\b[\w'’-]{3,40}(?:stra(?:ss|ß)e|str\.|weg|gasse|platz|gatan|vägen|vej|gade|katu|tie|laan|straat|utca"
    r"|kuja) \d{1,5}\b"
)
_CHINESE_ADDRESS = re.compile(
    r"(?:[\u4e00-\u9fff]{2,7}(?:省|自治区))?(?:[\u4e00-\u9fff]{2,7}[市州])?(?:[\u4e00-\u9fff]{1,7}[区县])?"
    r"[\u4e00-\u9fff]{1,9}(?:路|街|大道|巷|弄|胡同|村)(?:[\u4e00-\u9fff]{0,4})?[\d一二三四五六七八九十]{1,6}(?:号|弄|巷)"
    r"(?:[\u4e00-\u9fff]{0,8}\d{1,4}(?:号楼|栋|幢|座|单元|室|层|楼|号)){0,4}"
)


def find_names(text: str) -> Iterator[Finding]:
    """Names of people that something announces, of kind "NAME"."""
    for found in _ANNOUNCED.finditer(text):
        if not _NOT_NAMES.match(found[1]):
            yield Finding("NAME", found.start(1), found.end(1) - found[1].endswith("."), "announced")
    for found in _CHINESE.finditer(text):
        group = found.lastindex or 1
        yield Finding("NAME", found.start(group), found.end(group), "announced")


def find_addresses(text: str) -> Iterator[Finding]:
    """Postal addresses by their parts, of kind "ADDRESS"."""
    for pattern in (_ADDRESS, _CHINESE_ADDRESS):
        for found in pattern.finditer(text):
            yield Finding("ADDRESS", found.start(), found.end(), "parts of an address")
