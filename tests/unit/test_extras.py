import json

import pytest

from darec.common.errors import UserError
from darec.common.extras import extra


def test_a_library_that_is_installed_is_imported():
    assert extra("json", "cloud") is json


def test_a_missing_library_names_the_extra_that_installs_it():
    with pytest.raises(UserError, match=r"the library not_there is not installed -> pip install 'darec\[vectors\]'"):
        extra("not_there", "vectors")
