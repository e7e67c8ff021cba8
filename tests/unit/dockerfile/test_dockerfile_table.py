"""Rows of a table of Dockerfiles that other systems misread: here they mean what BuildKit says."""

from __future__ import annotations

import pytest

from tests.support.dockerfiles import instructions, one, read


def test_a_comment_at_column_0_inside_a_continued_run() -> None:
    run, cmd = instructions("FROM a\nRUN one \\\n# comment\n two\nCMD x\n")
    assert run.text == "one  two"
    assert (run.line, run.last_line) == (2, 4)
    assert (cmd.keyword, cmd.text) == ("CMD", "x")


def test_an_indented_comment_in_a_continuation() -> None:
    run, cmd = instructions("FROM a\nRUN one \\\n   # comment\n && two\nCMD x\n")
    assert run.text == "one  && two"
    assert cmd.keyword == "CMD"


def test_empty_lines_in_a_continuation() -> None:
    (run,) = instructions("FROM a\nRUN one \\\n\n  \t\n && two\n")
    assert run.text == "one  && two"


def test_a_heredoc_that_ends_right_before_cmd() -> None:
    run, copy, cmd = instructions(
        'FROM a\nRUN <<EOF\necho a\n# kept\nEOF\nCOPY <<EOF /x\n$A\nEOF\nCMD ["b"]\n'
    )
    assert run.heredocs[0].content == "echo a\n# kept\n"
    assert copy.words == ("<<EOF", "/x")
    assert copy.heredocs[0].content == "$A\n"
    assert cmd.exec_form == ("b",)
    assert (copy.line, copy.last_line, cmd.line) == (6, 8, 9)


@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte order mark"])
def test_windows_line_ends_a_byte_order_mark_and_a_tab_after_from(before: bytes) -> None:
    found = read(before + b"FROM\tdebian:12\r\nRUN a \\\r\n  b\r\nCMD c\r\n")
    (stage,) = found.stages
    assert stage.image == "debian:12"
    assert found.data[slice(*stage.image_span)] == b"debian:12"
    assert [each.text for each in stage.instructions] == ["a   b", "c"]


def test_the_escape_directive() -> None:
    (run, cmd) = instructions("# escape=`\nFROM a\nRUN dir c:\\ `\n  && x\nCMD y\n")
    assert run.text == "dir c:\\   && x"
    assert cmd.text == "y"


def test_a_backslash_with_space_behind_it() -> None:
    (run,) = instructions("FROM a\nRUN one \\ \t\n two\n")
    assert run.text == "one  two"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('["sh","-c","echo a, b"]', ("sh", "-c", "echo a, b")),
        ('["sh", "-c", "a && b"]', ("sh", "-c", "a && b")),
        ('  [ "a" , "\\u00e9\\n" ] ', ("a", "é\n")),
        ("[]", ()),
    ],
)
@pytest.mark.parametrize("keyword", ["CMD", "ENTRYPOINT", "RUN"])
def test_json_arrays(keyword: str, text: str, words: tuple[str, ...]) -> None:
    assert one(f"{keyword} {text}").exec_form == words


@pytest.mark.parametrize("text", ["['a']", '["a",]', '["a"] b', "[NaN]", '["a" "b"]', "[ -f x ]"])
def test_what_is_no_json_is_for_the_shell(text: str) -> None:
    found = one(f"RUN {text}")
    assert found.exec_form is None
    assert found.text == text


@pytest.mark.parametrize(
    ("text", "words"),
    [("80/tcp", ("80/tcp",)), ("80 81", ("80", "81")), ("$PORT", ("$PORT",)), ("1-3", ("1-3",))],
)
def test_expose(text: str, words: tuple[str, ...]) -> None:
    assert one(f"EXPOSE {text}").words == words


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("A b c", [("A", "b c")]),
        ("A  b", [("A", "b")]),
        ("A='x y'", [("A", "'x y'")]),
        ('A="x y" B=z', [("A", '"x y"'), ("B", "z")]),
        ("A=x\\ y B=z", [("A", "x\\ y"), ("B", "z")]),
        ("A=1 \\\n  B=2 \\\n  C=3", [("A", "1"), ("B", "2"), ("C", "3")]),
        ('A="x \\\n y"', [("A", '"x  y"')]),
        ("A=", [("A", "")]),
        ("A=b=c", [("A", "b=c")]),
        ('A=%s"\'$X"', [("A", '%s"\'$X"')]),
        ("A b=c", [("A", "b=c")]),
    ],
)
def test_env(text: str, pairs: list[tuple[str, str]]) -> None:
    assert list(one(f"ENV {text}").pairs) == pairs
    assert list(one(f"LABEL {text}").pairs) == pairs


def test_entrypoint_of_nothing_is_an_empty_array() -> None:
    assert one("ENTRYPOINT []").exec_form == ()


def test_cmd_and_user_of_an_earlier_stage_stay_there() -> None:
    first, second = read("FROM a AS b\nCMD x\nUSER y\nFROM c\nRUN z\n").stages
    assert [each.keyword for each in first.instructions] == ["CMD", "USER"]
    assert [each.keyword for each in second.instructions] == ["RUN"]


@pytest.mark.parametrize("word", ["100%", "$X", "it's", 'a"b', "line\nbreak", "é\u2028"])
def test_entries_survive_as_they_are(word: str) -> None:
    import json

    assert one(f"ENTRYPOINT {json.dumps([word])}").exec_form == (word,)
    assert one(f"ENTRYPOINT {json.dumps([word], ensure_ascii=False)}").exec_form == (word,)


def test_user_with_numbers() -> None:
    assert one("USER 1000:1000").words == ("1000:1000",)


def test_a_health_check_with_a_question_mark() -> None:
    found = one("HEALTHCHECK --interval=5s CMD curl 'http://x/?a=1&b=2'")
    assert found.inner is not None
    assert found.inner.text == "curl 'http://x/?a=1&b=2'"
    assert found.flag("interval") == "5s"
