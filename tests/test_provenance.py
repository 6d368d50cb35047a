import json

import msgspec

from splattingocc.provenance import environment, source_hash


def test_the_environment_is_plain_text_for_any_json_writer():
    found = environment()
    assert json.loads(msgspec.json.encode(found)) == found
    assert {"commit", "torch", "warp", "device"} <= set(found)


def test_the_source_hash_is_stable():
    assert source_hash() == source_hash()
    assert len(source_hash()) == 64
