from __future__ import annotations

import stat
from pathlib import Path

import pytest

from cagebuild import config
from cagebuild.errors import ConfigSyntaxError, UsageError

TEXT = """\
# What this is
[base]
scratch = true   # nothing

[runtime]  # pinned
installer = "sha256:old" # by hand
# the end
[app]
command = [
  "/app", # first
]
"""


def edited(tmp_path: Path, text: str, key: str, value: str | int) -> str:
    file = tmp_path / "cage.toml"
    file.write_bytes(text.encode())
    config.set_value(file, key, value)
    return file.read_bytes().decode()


def test_only_the_value_changes(tmp_path: Path) -> None:
    after = edited(tmp_path, TEXT, "runtime.installer", "sha256:new")
    assert after == TEXT.replace("sha256:old", "sha256:new")


def test_line_ends_and_byte_order_mark_stay(tmp_path: Path) -> None:
    text = "\ufeff" + TEXT.replace("\n", "\r\n")
    after = edited(tmp_path, text, "runtime.installer", "sha256:new")
    assert after == text.replace("sha256:old", "sha256:new")


def test_inline_tables_and_dotted_keys(tmp_path: Path) -> None:
    text = 'runtime = { installer = "a", url = "u" } # x\nenclave.cpus = 2\n'
    after = edited(tmp_path, text, "runtime.installer", "b")
    assert after == text.replace('"a"', '"b"')
    assert edited(tmp_path, text, "enclave.cpus", 3) == text.replace("2", "3")


def test_missing_tables_are_made(tmp_path: Path) -> None:
    text = "# only this\n[base]\nscratch = true\n"
    after = edited(tmp_path, text, "runtime.installer", "b")
    assert after.startswith(text)
    assert '[runtime]\ninstaller = "b"' in after


def test_an_equal_value_leaves_the_file_alone(tmp_path: Path) -> None:
    file = tmp_path / "cage.toml"
    file.write_text(TEXT)
    before = file.stat()
    assert not config.set_value(file, "runtime.installer", "sha256:old")
    assert file.stat().st_ino == before.st_ino
    assert config.set_value(file, "runtime.installer", "sha256:new")


def test_permissions_stay(tmp_path: Path) -> None:
    file = tmp_path / "cage.toml"
    file.write_text(TEXT)
    file.chmod(0o640)
    config.set_value(file, "runtime.installer", "sha256:new")
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert [path.name for path in tmp_path.iterdir()] == ["cage.toml"]


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="runtime is no table"):
        edited(tmp_path, "runtime = false\n", "runtime.installer", "x")
    assert (tmp_path / "cage.toml").read_text() == "runtime = false\n"


def test_what_is_no_toml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigSyntaxError):
        edited(tmp_path, "runtime = \n", "runtime.installer", "x")
