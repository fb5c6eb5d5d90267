import unicodedata

import pytest

from zhcache.errors import IntegrityError
from zhcache.protocol.names import check_listing, parse_path

MAC = unicodedata.normalize("NFD", "modèle.json")


def test_name_from_a_mac_is_taken_as_it_is():
    assert parse_path(MAC) == MAC
    check_listing([parse_path(MAC)])


def test_name_in_two_unicode_forms_is_refused():
    with pytest.raises(IntegrityError, match="twice"):
        check_listing([parse_path(MAC), parse_path(unicodedata.normalize("NFC", MAC))])


def test_pattern_given_as_one_string_is_one_pattern():
    from zhcache.calls.jobs import _several

    assert _several("*.json") == ["*.json"]
    assert _several(("a", "b")) == ["a", "b"]
