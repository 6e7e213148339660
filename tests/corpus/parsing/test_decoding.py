"""Bytes become the right text, or are refused with a reason; never the wrong text silently."""

from __future__ import annotations

import pytest

from pipeline_lib.corpus.drops import RefusedInputError
from pipeline_lib.corpus.parsing.decoding import decode

GERMAN = "Alle Menschen sind frei und gleich an Würde und Rechten geboren."
FRENCH = "Tous les êtres humains naissent libres et égaux en dignité et en droits."
POLISH = (
    "Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw. "
    "Są oni obdarzeni rozumem i sumieniem."
)
CZECH = "Všichni lidé rodí se svobodní a sobě rovní co do důstojnosti a práv."
HUNGARIAN = "Minden emberi lény szabadon születik és egyenlő méltósága és joga van."
SPANISH = "¿Cómo está, señor? El niño nació libre e igual en dignidad."
SYMBOLS = "It is 25°C ± 2 on 5 m², and costs £30¹ — so they say; ©2020, a naïve café."
TURKISH = "Bütün insanlar hür, özgür ve eşit doğarlar; çünkü kardeşçe düşünürler."
LITHUANIAN = "Visi žmonės gimsta laisvi ir lygūs savo orumu ir teisėmis. Jiems suteikta sąžinė."
RUSSIAN = "Люди рождаются свободными и равными, братья и друзья друг другу."
JAPANESE = "日本語のテキストです。文字コードの判定。"
CHINESE = "中文文本编码检测测试一下"
KOREAN = "한국어 텍스트 인코딩 판별"


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le", "utf-16-be"]
)
def test_unicode_with_or_without_byte_order_mark(encoding: str) -> None:
    mark = {"utf-16-le": b"\xff\xfe", "utf-16-be": b"\xfe\xff"}.get(encoding, b"")
    assert decode(mark + GERMAN.encode(encoding)).text == GERMAN


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (GERMAN, "cp1252"),
        (FRENCH, "latin-1"),
        (POLISH, "cp1250"),
        (POLISH, "iso8859_2"),
        (CZECH, "cp1250"),
        (HUNGARIAN, "cp1250"),
        (SPANISH, "cp1252"),
        (SYMBOLS, "cp1252"),
        (TURKISH, "cp1254"),
        (LITHUANIAN, "cp1257"),
        (RUSSIAN, "cp1251"),
        (RUSSIAN, "koi8_r"),
        (JAPANESE, "shift_jis"),
        (JAPANESE, "euc_jp"),
        (CHINESE, "gb18030"),
        (KOREAN, "cp949"),
    ],
)
def test_legacy_encodings_are_recognised(text: str, encoding: str) -> None:
    assert decode(text.encode(encoding)).text == text


@pytest.mark.parametrize("text", ["café", "naïve résumé", "señor año mañana", "It\u2019s a résumé"])
def test_short_western_text_is_not_taken_for_another_script(text: str) -> None:
    """charset-normalizer alone reads the first as Chinese and the third as seńor ańo mańana."""
    decoded = decode(text.encode("cp1252"))
    assert (decoded.text, decoded.encoding) == (text, "cp1252")


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("商品名,価格\n緑茶,500", "cp932"),
        ("緑茶は静岡県産です。", "cp932"),
        ("緑茶は静岡県産です。", "euc_jp"),
        ("전화번호 목록", "cp949"),
        ("我们提供退货服务", "gb18030"),
        ("我們提供退貨服務", "big5"),
    ],
)
def test_a_few_words_in_an_east_asian_encoding(text: str, encoding: str) -> None:
    """charset-normalizer alone takes short Japanese for Korean."""
    assert decode(text.encode(encoding)).text == text


def test_one_rare_byte_deep_in_a_long_ascii_file_is_found() -> None:
    text = "plain line\n" * 50_000 + "Größe und Maß\n" + "plain line\n" * 10
    assert decode(text.encode("cp1252")).text == text


def test_html_may_declare_its_encoding() -> None:
    page = '<html><head><meta charset="windows-1251"></head><body>Да</body></html>'
    decoded = decode(page.encode("cp1251"), is_html=True)
    assert (decoded.text, decoded.encoding) == (page, "cp1251")


def test_html_that_declares_latin1_is_read_as_cp1252() -> None:
    page = '<meta http-equiv="Content-Type" content="text/html; charset=ISO-8859-1">It\u2019s'
    assert decode(page.encode("cp1252"), is_html=True).text == page


def test_valid_utf8_wins_over_a_false_declaration() -> None:
    page = '<meta charset="windows-1251">Größe'
    assert decode(page.encode("utf-8"), is_html=True).text == page


@pytest.mark.parametrize("name", ["no-such-charset", "unicode_escape", "base64"])
def test_a_declared_encoding_that_is_no_legacy_text_encoding_is_ignored(name: str) -> None:
    page = f'<meta charset="{name}">Größe'
    assert decode(page.encode("cp1252"), is_html=True).text == page


@pytest.mark.parametrize(
    "data",
    [
        b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR",
        "no mark".encode("utf-16-le"),
        b"%PDF-1.7\n1 0 obj\n",
        b"a\x01b\x02c\x03",
    ],
)
def test_binary_content_is_refused(data: bytes) -> None:
    with pytest.raises(RefusedInputError) as caught:
        decode(data)
    assert caught.value.reason == "binary"


def test_terminal_colours_do_not_make_a_log_binary() -> None:
    text = "\x1b[31merror\x1b[0m\n" * 10
    assert decode(text.encode()).text == text


@pytest.mark.parametrize("data", [b"\xff\xfe\x00\xd8", bytes(range(128, 256)) * 20])
def test_bytes_that_no_encoding_explains_are_refused(data: bytes) -> None:
    with pytest.raises(RefusedInputError) as caught:
        decode(data)
    assert caught.value.reason == "unknown_encoding"


def test_empty_input_is_empty_text() -> None:
    assert decode(b"").text == ""
