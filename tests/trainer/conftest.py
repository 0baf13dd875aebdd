"""The uninterrupted run that resumed ones are compared with."""

import pytest
import twins
from resuming import part


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    part(folder, twins.watcher(), until=8)
    return folder
