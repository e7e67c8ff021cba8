"""The two small languages inside a cage.toml: egress rules and path patterns."""

from __future__ import annotations

import pytest

from cagebuild.config.egress import RuleError, parse_rule
from cagebuild.config.globs import PatternError, compiled, matcher
from cagebuild.config.model import EgressRule


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("api.example.com:443", "api.example.com", 443),
        ("API.Example.COM.:1", "api.example.com", 1),
        ("*.Example.com:65535", "*.example.com", 65535),
        ("redis:6379", "redis", 6379),
        ("_sip.example.com:5060", "_sip.example.com", 5060),
        ("xn--bcher-kva.example:443", "xn--bcher-kva.example", 443),
        ("3com.com:80", "3com.com", 80),
        ("0.x:80", "0.x", 80),
        ("10.0.0.0/8:5432", "10.0.0.0/8", 5432),
        ("10.1.2.3:5432", "10.1.2.3", 5432),
        ("169.254.169.254:80", "169.254.169.254", 80),
        ("[2001:DB8::]/32:443", "2001:db8::/32", 443),
        ("[2001:db8:0:0::1]:443", "2001:db8::1", 443),
    ],
)
def test_rules(text: str, host: str, port: int) -> None:
    assert parse_rule(text) == EgressRule(host=host, port=port)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        ":443",
        "*",
        "*:443",
        "*.:443",
        "**.example.com:443",
        "*.com:443",
        "*example.com:443",
        "a.*.com:443",
        "a.example.com",
        "a.example.com:",
        "a.example.com:0",
        "a.example.com:00443",
        "a.example.com:+443",
        "a.example.com:٤٤٣",
        "a.example.com:443 ",
        " a.example.com:443",
        "a.example.com:443\n",
        "a.example.com\n:443",
        "a b.example.com:443",
        "a.example.com:443:443",
        "user@a.example.com:443",
        "a.example.com/path:443",
        "https://a.example.com:443",
        "evil.com#.example.com:443",
        "-a.example.com:443",
        "a-.example.com:443",
        f"{'a' * 64}.example.com:443",
        f"{'a.' * 127}example:443",
        "0.0.0.0/0:443",
        "0.0.0.0:443",
        "10.0.0.0/255.0.0.0:443",
        "10.0.0.0/33:443",
        "10.0.0.0/:443",
        "010.0.0.1:443",
        "0x7f.1:443",
        "0x7f000001:443",
        "a.0x1:443",
        "2130706433:443",
        "1.2.3:443",
        "127.0.0.1:443",
        "127.0.0.0/8:443",
        "224.0.0.0/4:443",
        "[::1]:443",
        "[::]:443",
        "[::]/0:443",
        "[fe80::1%eth0]:443",
        "[::ffff:127.0.0.1]:443",
        "[10.0.0.1]:443",
        "[2001:db8::1:443",
        "2001:db8::1:443",
        "localhost:443",
        "a.localhost:443",
        "bücher.example:443",
        "xn--.example:443",
        "a.xn--bcher-kv.example:443",
        "xn--99999999.example:443",
        "10.0.0.0/8:53",
        "10.0.0.0/8:9001",
        "\u212aelvin.example:443",
    ],
)
def test_what_is_no_rule(text: str) -> None:
    with pytest.raises(RuleError) as caught:
        parse_rule(text)
    assert caught.value.message


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("a", "a", True),
        ("a", "b/a", False),
        ("a", "a/b/c", True),
        ("a/", "a/b", True),
        ("*.pyc", "x.pyc", True),
        ("*.pyc", "a/x.pyc", False),
        ("**/*.pyc", "x.pyc", True),
        ("**/*.pyc", "a/b/x.pyc", True),
        ("**", "a/b", True),
        ("a/**", "a", False),
        ("a/**", "a/b/c", True),
        ("a/**/b", "a/b", True),
        ("a/**/b", "a/x/y/b", True),
        ("a/**/b", "axb", False),
        ("a?c", "abc", True),
        ("a?c", "a/c", False),
        ("[a-c]x", "bx", True),
        ("[!a-c]x", "bx", False),
        ("[!a-c]x", "/x", False),
        ("[]]x", "]x", True),
        ("[\\d]", "d", True),
        ("[\\d]", "1", False),
        ("[a^]", "^", True),
        ("a.b", "axb", False),
        ("a\nb", "a\nb", True),
        ("*", "a\n", True),
        ("services/*", "services/pay", True),
    ],
)
def test_patterns(pattern: str, path: str, matches: bool) -> None:
    assert matcher([pattern])(path) is matches


def test_patterns_for_the_path_itself() -> None:
    assert not matcher(["a"], below=False)("a/b")
    assert not matcher([])("a")


@pytest.mark.parametrize(
    "pattern", ["", "/a", "a//b", "./a", "a/..", "a**", "[", "[a", "[!]", "[z-a]", "a\0b"]
)
def test_what_is_no_pattern(pattern: str) -> None:
    with pytest.raises(PatternError):
        compiled(pattern)
