"""Names of units and currencies in the five languages."""

from __future__ import annotations

import re
from dataclasses import dataclass

from gsv.text.corrections.changes import any_of


@dataclass(frozen=True, slots=True)
class Name:
    """What a sign is called.

    Attributes:
        one, many: in English, after 1 and after other numbers.
        zh: in Mandarin and Cantonese.
        ja: in Japanese.
        ko: in Korean.
    """

    one: str
    many: str
    zh: str
    ja: str
    ko: str


def _table(rows: str) -> dict[str, Name]:
    table = {}
    for row in rows.strip().splitlines():
        sign, *names = (cell.strip() for cell in row.split("|"))
        table[sign] = Name(*names)
    return table


UNITS = _table(
    """
    km/h | kilometer per hour | kilometers per hour| 公里每小时|キロメートル毎時|킬로미터 퍼 아워
    m/s | meter per second | meters per second | 米每秒 | メートル毎秒 | 미터 퍼 세컨드
    km² | square kilometer | square kilometers | 平方千米 | 平方キロメートル | 제곱킬로미터
    m² | square meter | square meters | 平方米 | 平方メートル | 제곱미터
    cm² | square centimeter | square centimeters | 平方厘米 | 平方センチメートル | 제곱센티미터
    mm² | square millimeter | square millimeters | 平方毫米 | 平方ミリメートル | 제곱밀리미터
    m³ | cubic meter | cubic meters | 立方米 | 立方メートル | 세제곱미터
    cm³ | cubic centimeter | cubic centimeters | 立方厘米 | 立方センチメートル | 세제곱센티미터
    km | kilometer | kilometers | 千米 | キロメートル | 킬로미터
    m | meter | meters | 米 | メートル | 미터
    dm | decimeter | decimeters | 分米 | デシメートル | 데시미터
    cm | centimeter | centimeters | 厘米 | センチメートル | 센티미터
    mm | millimeter | millimeters | 毫米 | ミリメートル | 밀리미터
    μm | micrometer | micrometers | 微米 | マイクロメートル | 마이크로미터
    nm | nanometer | nanometers | 纳米 | ナノメートル | 나노미터
    kg | kilogram | kilograms | 千克 | キログラム | 킬로그램
    g | gram | grams | 克 | グラム | 그램
    mg | milligram | milligrams | 毫克 | ミリグラム | 밀리그램
    μg | microgram | micrograms | 微克 | マイクログラム | 마이크로그램
    t | ton | tons | 吨 | トン | 톤
    L | liter | liters | 升 | リットル | 리터
    l | liter | liters | 升 | リットル | 리터
    dL | deciliter | deciliters | 分升 | デシリットル | 데시리터
    mL | milliliter | milliliters | 毫升 | ミリリットル | 밀리리터
    ml | milliliter | milliliters | 毫升 | ミリリットル | 밀리리터
    cc | cubic centimeter | cubic centimeters | 立方厘米 | シーシー | 시시
    kWh | kilowatt hour | kilowatt hours | 千瓦时 | キロワット時 | 킬로와트시
    kW | kilowatt | kilowatts | 千瓦 | キロワット | 킬로와트
    MW | megawatt | megawatts | 兆瓦 | メガワット | 메가와트
    W | watt | watts | 瓦 | ワット | 와트
    kV | kilovolt | kilovolts | 千伏 | キロボルト | 킬로볼트
    V | volt | volts | 伏 | ボルト | 볼트
    mA | milliampere | milliamperes | 毫安 | ミリアンペア | 밀리암페어
    Hz | hertz | hertz | 赫兹 | ヘルツ | 헤르츠
    kHz | kilohertz | kilohertz | 千赫兹 | キロヘルツ | 킬로헤르츠
    MHz | megahertz | megahertz | 兆赫兹 | メガヘルツ | 메가헤르츠
    GHz | gigahertz | gigahertz | 吉赫兹 | ギガヘルツ | 기가헤르츠
    dB | decibel | decibels | 分贝 | デシベル | 데시벨
    hPa | hectopascal | hectopascals | 百帕 | ヘクトパスカル | 헥토파스칼
    kPa | kilopascal | kilopascals | 千帕 | キロパスカル | 킬로파스칼
    Pa | pascal | pascals | 帕 | パスカル | 파스칼
    kcal | kilocalorie | kilocalories | 千卡 | キロカロリー | 킬로칼로리
    cal | calorie | calories | 卡 | カロリー | 칼로리
    kJ | kilojoule | kilojoules | 千焦 | キロジュール | 킬로줄
    ha | hectare | hectares | 公顷 | ヘクタール | 헥타르
    KB | kilobyte | kilobytes | 千字节 | キロバイト | 킬로바이트
    MB | megabyte | megabytes | 兆字节 | メガバイト | 메가바이트
    GB | gigabyte | gigabytes | 吉字节 | ギガバイト | 기가바이트
    TB | terabyte | terabytes | 太字节 | テラバイト | 테라바이트
    ms | millisecond | milliseconds | 毫秒 | ミリ秒 | 밀리초
    min | minute | minutes | 分钟 | 分 | 분
    h | hour | hours | 小时 | 時間 | 시간
    s | second | seconds | 秒 | 秒 | 초
    ft | feet | feet | 英尺 | フィート | 피트
    mi | mile | miles | 英里 | マイル | 마일
    mph | mile per hour | miles per hour | 英里每小时 | マイル毎時 | 마일 퍼 아워
    lb | pound | pounds | 磅 | ポンド | 파운드
    oz | ounce | ounces | 盎司 | オンス | 온스
    tbsp | tablespoon | tablespoons | 汤匙 | 大さじ | 큰술
    tsp | teaspoon | teaspoons | 茶匙 | 小さじ | 작은술
    Ω | ohm | ohms | 欧姆 | オーム | 옴
    kΩ | kilohm | kilohms | 千欧 | キロオーム | 킬로옴
    """
)
# Written with a figure instead of a superscript, or with another letter.
_SPELLINGS = {
    **{f"{unit}{figure}": f"{unit}{power}" for unit in ("km", "m", "cm", "mm")
       for figure, power in (("2", "²"), ("3", "³")) if f"{unit}{power}" in UNITS},
    **{"kph": "km/h", "Kg": "kg", "KG": "kg", "Km": "km", "KM": "km", "CM": "cm", "MM": "mm"},
    **{"ML": "ml", "um": "μm", "µm": "μm", "kw": "kW", "kwh": "kWh", "hz": "Hz", "db": "dB"},
    **{"µg": "μg", "㏄": "cc", "sec": "s", "hr": "h", "hrs": "h", "lbs": "lb", "mins": "min"},
    **{"ℓ": "L"},
}  # fmt: skip
UNITS.update({spelling: UNITS[unit] for spelling, unit in _SPELLINGS.items()})

# Of one letter, and what is as often a name (5G, 3D, 4K): only directly after the number, and never
# a capital that is more often something else.
UNIT = rf"(?:{any_of(list(UNITS))})(?![A-Za-z0-9²³])"
DEGREES = {
    "°C": Name("degree celsius", "degrees celsius", "度", "度", "도"),
    "°F": Name("degree fahrenheit", "degrees fahrenheit", "华氏度", "華氏度", "화씨도"),
    "°": Name("degree", "degrees", "度", "度", "도"),
}
DEGREE = r"°[CF]?(?![A-Za-z])"
SHARES = {
    "%": Name("percent", "percent", "百分之", "パーセント", "퍼센트"),
    "‰": Name("per mille", "per mille", "千分之", "パーミル", "퍼밀"),
}

CURRENCIES = _table(
    """
    $ | dollar | dollars | 美元 | ドル | 달러
    US$ | US dollar | US dollars | 美元 | ドル | 달러
    HK$ | Hong Kong dollar | Hong Kong dollars | 港元 | 香港ドル | 홍콩 달러
    NT$ | New Taiwan dollar | New Taiwan dollars | 新台币 | 台湾ドル | 대만 달러
    A$ | Australian dollar | Australian dollars | 澳元 | オーストラリアドル | 호주 달러
    C$ | Canadian dollar | Canadian dollars | 加元 | カナダドル | 캐나다 달러
    S$ | Singapore dollar | Singapore dollars | 新加坡元 | シンガポールドル | 싱가포르 달러
    € | euro | euros | 欧元 | ユーロ | 유로
    £ | pound | pounds | 英镑 | ポンド | 파운드
    ¥ | yen | yen | 元 | 円 | 엔
    RMB¥ | yuan | yuan | 元 | 元 | 위안
    JP¥ | yen | yen | 日元 | 円 | 엔
    CN¥ | yuan | yuan | 元 | 元 | 위안
    ₩ | won | won | 韩元 | ウォン | 원
    ₹ | rupee | rupees | 卢比 | ルピー | 루피
    ₽ | ruble | rubles | 卢布 | ルーブル | 루블
    ฿ | baht | baht | 泰铢 | バーツ | 바트
    ₫ | dong | dong | 越南盾 | ドン | 동
    ₺ | lira | lira | 里拉 | リラ | 리라
    ₴ | hryvnia | hryvnias | 格里夫纳 | フリヴニャ | 흐리우냐
    ₪ | shekel | shekels | 谢克尔 | シェケル | 셰켈
    ₱ | peso | pesos | 比索 | ペソ | 페소
    ₦ | naira | naira | 奈拉 | ナイラ | 나이라
    ¢ | cent | cents | 美分 | セント | 센트
    """
)
CURRENCY = rf"(?:{any_of(list(CURRENCIES))})"
CURRENCY_SIGNS = "".join(sorted({sign[-1] for sign in CURRENCIES}))
COINS = {"dollar": ("cent", "cents"), "euro": ("cent", "cents"), "pound": ("penny", "pence")}

SCALES = {
    "k": "thousand", "K": "thousand", "M": "million", "m": "million", "mn": "million",
    "B": "billion", "b": "billion", "bn": "billion", "T": "trillion", "tn": "trillion",
}  # fmt: skip

VULGAR = {
    "½": (1, 2), "⅓": (1, 3), "⅔": (2, 3), "¼": (1, 4), "¾": (3, 4), "⅕": (1, 5), "⅖": (2, 5),
    "⅗": (3, 5), "⅘": (4, 5), "⅙": (1, 6), "⅚": (5, 6), "⅐": (1, 7), "⅛": (1, 8), "⅜": (3, 8),
    "⅝": (5, 8), "⅞": (7, 8), "⅑": (1, 9), "⅒": (1, 10), "↉": (0, 3),
}  # fmt: skip
MIXED = re.compile(rf"(?<![\d.,/])(\d*)\s?([{''.join(VULGAR)}])")
