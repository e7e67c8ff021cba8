"""PCR arithmetic, and the two forms in which measurements are written."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from cagebuild.nitro.build import build
from cagebuild.nitro.pcr import Measurements, extend
from tests.support import eif_by_spec as spec
from tests.support.nitro import built, job

SCHEMA = Path(__file__).parents[3] / "schemas" / "measurements.schema.json"

# printf '' | openssl dgst -sha384 -binary | (head -c 48 /dev/zero; cat) | openssl dgst -sha384
OF_NOTHING = (
    "21b9efbc184807662e966d34f390821309eeac6802309798826296bf3e8bec7c"
    "10edb30948c90ba67310f7b964fc500a"
)


def test_the_pcr_of_nothing() -> None:
    assert spec.pcr(b"") == OF_NOTHING
    digest = bytes.fromhex(
        "38b060a751ac96384cd9327eb1b1e36a21fdb71114be07434c0cc7bf63f6e1da"
        "274edebfe76f65fbd51ad2f14898b95b"
    )  # SHA-384 of no bytes, from FIPS 180-4's examples
    assert extend(digest) == OF_NOTHING


def test_what_nitro_cli_prints() -> None:
    measurements = Measurements(pcr0="0" * 96, pcr1="1" * 96, pcr2="2" * 96)
    assert json.dumps(measurements.to_json()) == (
        '{"Measurements": {"HashAlgorithm": "Sha384 { ... }", '
        f'"PCR0": "{"0" * 96}", "PCR1": "{"1" * 96}", "PCR2": "{"2" * 96}"}}}}'
    )
    signed = Measurements(pcr0="0" * 96, pcr1="1" * 96, pcr2="2" * 96, pcr8="8" * 96)
    assert list(signed.pcrs()) == ["PCR0", "PCR1", "PCR2", "PCR8"]


@pytest.mark.parametrize("value", ["", "0" * 95, "0" * 97, "A" * 96, "0" * 95 + "\n", "g" * 96])
def test_what_is_no_pcr(value: str) -> None:
    with pytest.raises(ValueError, match="not a SHA-384 PCR"):
        Measurements(pcr0=value, pcr1="1" * 96, pcr2="2" * 96)


def test_measurements_are_as_their_schema_says(tmp_path: Path) -> None:
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    found = build(job(tmp_path), output=None).measured.to_json()
    jsonschema.Draft202012Validator(schema).validate(json.loads(json.dumps(found)))
    assert found["size"] == built(tmp_path)[0].stat().st_size


def test_every_key_of_the_schema_is_explained() -> None:
    pending: list[tuple[str, object]] = [("", json.loads(SCHEMA.read_text()))]
    while pending:
        path, node = pending.pop()
        if not isinstance(node, dict):
            continue
        if "properties" in node:
            for key, value in node["properties"].items():
                assert value.get("title"), f"{path}/{key}"
                assert value.get("description"), f"{path}/{key}"
        pending += [(f"{path}/{key}", value) for key, value in node.items()]
