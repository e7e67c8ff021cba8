from __future__ import annotations

from pathlib import Path

import pytest

from cagebuild import config, workspace
from cagebuild.errors import ToolMissingError, UsageError
from tests.support.checkout import Checkout
from tests.support.config import SMALLEST


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    made = Checkout(tmp_path / "repo")
    made.cage("cage.toml", '[cage]\nname = "top"\n' + SMALLEST + "[workspace]\n")
    made.cage("services/pay/cage.toml")
    made.cage("services/pay/debug.cage.toml", '[cage]\nname = "pay-debug"\n' + SMALLEST)
    made.cage("services/pay/api/cage.toml")
    made.cage("services/payroll/cage.toml")
    made.cage("tools/a.cage.toml")
    made.cage("tools/b.cage.toml")
    return made


EVERYTHING = [
    "//:top",
    "//services/pay",
    "//services/pay/api",
    "//services/pay:debug",
    "//services/payroll",
    "//tools:a",
    "//tools:b",
]


def found(root: Path) -> list[str]:
    return [cage.address for cage in workspace.find(config.load_workspace(root))]


def selected(checkout: Checkout, *words: str, at: str = "") -> list[str]:
    cwd = checkout.root / at
    around = config.load_workspace(cwd)
    return [cage.address for cage in workspace.select(around, words, cwd)]


def test_all_cages_are_found_and_have_their_addresses(checkout: Checkout) -> None:
    assert found(checkout.root) == EVERYTHING


def test_an_address_is_the_one_that_loading_gives(checkout: Checkout) -> None:
    around = config.load_workspace(checkout.root)
    for cage in workspace.find(around):
        assert config.load(cage.file, around).address == cage.address


def test_only_what_git_tracks_and_what_is_there(checkout: Checkout) -> None:
    checkout.write("services/new/cage.toml", SMALLEST)
    (checkout.root / "services/payroll/cage.toml").unlink()
    assert found(checkout.root) == [a for a in EVERYTHING if a != "//services/payroll"]


@pytest.mark.parametrize("uses_git", [True, False])
def test_results_hidden_folders_and_others_code_are_passed_over(
    tmp_path: Path, uses_git: bool
) -> None:
    checkout = Checkout(tmp_path / "repo")
    checkout.cage("cage.toml", "[workspace]\n")
    names = ("dist/x", ".venv/x", "web/node_modules/x", ".hidden", "a/dist", "distribution", "a")
    for name in names:
        checkout.cage(f"{name}/cage.toml")
    for name in (".cage.toml", "settings.toml", "x-cage.toml"):
        checkout.cage(f"a/{name}")
    if not uses_git:
        (checkout.root / ".git").rename(tmp_path / "gone")
    assert found(checkout.root) == ["//a", "//distribution"]


@pytest.mark.parametrize("uses_git", [True, False])
def test_members_and_exclusions(checkout: Checkout, tmp_path: Path, uses_git: bool) -> None:
    text = '[workspace]\ncages = ["services/*", "tools"]\nexclude = ["services/payroll"]\n'
    checkout.write("cage.toml", text)
    if not uses_git:
        (checkout.root / ".git").rename(tmp_path / "gone")
    expected = ["//services/pay", "//services/pay:debug", "//tools:a", "//tools:b"]
    assert found(checkout.root) == expected
    checkout.write("cage.toml", '[workspace]\nexclude = ["services"]\n')
    assert found(checkout.root) == ["//tools:a", "//tools:b"]


def test_a_root_with_a_workspace_alone_is_no_cage(checkout: Checkout) -> None:
    checkout.write("cage.toml", "[workspace]\n")
    assert found(checkout.root) == EVERYTHING[1:]


def test_a_symlinked_folder_is_not_entered(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/cage.toml").write_text(SMALLEST)
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "loop").symlink_to(".")
    (tmp_path / "cage.toml").write_text("[workspace]\n")
    assert found(tmp_path.resolve()) == ["//real"]


@pytest.mark.parametrize(
    ("words", "at", "expected"),
    [
        ((), "", EVERYTHING),
        ((), "services/pay", ["//services/pay", "//services/pay/api", "//services/pay:debug"]),
        (("//...",), "services/pay", EVERYTHING),
        (("...",), "tools", ["//tools:a", "//tools:b"]),
        (("//services/pay",), "tools", ["//services/pay"]),
        (("//services/pay/",), "tools", ["//services/pay"]),
        (("//services/pay:debug",), "", ["//services/pay:debug"]),
        (("//services/pay:pay-debug",), "", ["//services/pay:debug"]),
        (("//services/pay:pay",), "", ["//services/pay"]),
        (("//tools",), "", ["//tools:a", "//tools:b"]),
        (("//",), "tools", ["//:top"]),
        (("//:top",), "tools", ["//:top"]),
        ((".",), "", ["//:top"]),
        ((".",), "services/pay", ["//services/pay"]),
        (("..",), "services/pay/api", ["//services/pay"]),
        (("./api",), "services/pay", ["//services/pay/api"]),
        (("pay",), "services", ["//services/pay"]),
        (("pay",), "tools", ["//services/pay"]),
        (("pay-debug",), "tools", ["//services/pay:debug"]),
        ((":a",), "tools", ["//tools:a"]),
        (("tools:a", "tools:b"), "", ["//tools:a", "//tools:b"]),
        (("../tools/...", "//tools"), "services", ["//tools:a", "//tools:b"]),
        (
            ("services/pay/...",),
            "",
            ["//services/pay", "//services/pay/api", "//services/pay:debug"],
        ),
        (("services/pay/cage.toml",), "", ["//services/pay"]),
        (("debug.cage.toml",), "services/pay", ["//services/pay:debug"]),
    ],
)
def test_words(checkout: Checkout, words: tuple[str, ...], at: str, expected: list[str]) -> None:
    assert selected(checkout, *words, at=at) == expected


def test_an_absolute_path_is_a_word_as_well(checkout: Checkout) -> None:
    assert selected(checkout, str(checkout.root / "services/pay")) == ["//services/pay"]
    assert selected(checkout, f"{checkout.root}/tools/...") == ["//tools:a", "//tools:b"]


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("//service/pay", "did you mean '//services/pay'?"),
        ("//services/pai", "did you mean '//services/pay'?"),
        ("pay-debgu", "did you mean 'pay-debug'?"),
        ("services/pay:debig", "did you mean '//services/pay:debug'?"),
        ("../../x", "it is outside the workspace"),
        ("//../x", "it is outside the workspace"),
        ("/etc", "it is outside the workspace"),
        ("../...", "it is outside the workspace"),
        ("nowhere/...", ""),
        ("", ""),
    ],
)
def test_words_that_name_nothing(checkout: Checkout, word: str, hint: str) -> None:
    if word == "":
        assert selected(checkout, word) == ["//:top"]
        return
    with pytest.raises(UsageError) as caught:
        selected(checkout, word)
    assert repr(word) in caught.value.message
    assert hint in caught.value.hint


def test_all_unknown_words_are_named(checkout: Checkout) -> None:
    with pytest.raises(UsageError, match="'x', '//y'"):
        selected(checkout, "x", "//services/pay", "//y")


def test_a_name_of_several_cages_needs_an_address(checkout: Checkout) -> None:
    checkout.cage("other/pay/cage.toml")
    with pytest.raises(UsageError, match="//other/pay and //services/pay"):
        selected(checkout, "pay")


def test_a_cage_that_git_does_not_track_is_pointed_out(checkout: Checkout) -> None:
    checkout.write("new/cage.toml", SMALLEST)
    for words, at in ((("//new",), ""), ((), "new")):
        with pytest.raises(UsageError) as caught:
            selected(checkout, *words, at=at)
        assert caught.value.hint.startswith("git add new/cage.toml")


def test_no_cages_here(checkout: Checkout) -> None:
    (checkout.root / "docs").mkdir()
    with pytest.raises(UsageError, match="no cages at or below"):
        selected(checkout, at="docs")


def test_a_folder_outside_the_workspace(checkout: Checkout, tmp_path: Path) -> None:
    around = config.load_workspace(checkout.root)
    with pytest.raises(UsageError, match="not in the workspace"):
        workspace.select(around, (), tmp_path)


def test_a_broken_cage_can_still_be_listed(checkout: Checkout) -> None:
    checkout.cage("broken/cage.toml", "x = \n")
    assert "//broken" in found(checkout.root)
    assert selected(checkout, "broken") == ["//broken"]


def test_without_git_the_error_says_what_needs_it(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolMissingError, match="which files belong to a cage") as caught:
        found(checkout.root)
    assert "install git" in caught.value.hint
