"""Both ways to run a script, and the servers they share."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.sidebyside import Pair, clean_environ

# Each environment a script may have needs a server of its own, whose imports take seconds. All
# comparisons together take minutes and are a run of their own; these are made each time.
EACH_TIME = {
    "test_arguments_that_are_no_text",
    "test_standard_input",
    "test_client_that_is_killed_ends_the_script",
    "test_server_that_is_killed_ends_no_script",
    "test_script_that_is_killed_ends_the_client_by_the_same_signal",
    "test_client_of_another_user_is_refused",
    "test_a_pipeline_gives_the_same_image",
    "test_tensors_are_worked_on_by_as_many_threads",
    "test_another_environment_is_said_and_not_used",
    "test_script_that_names_another_environment_is_refused",
    "test_options_of_python_are_not_taken",
    "test_ctrl_c_interrupts_the_script_and_its_children",
    "test_input_prompts",
}
ENDS_EACH_TIME = 8


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    """Marks what is left to the slow run."""
    here = [item for item in items if Path(__file__).parent in item.path.parents]
    ends = [item for item in here if item.originalname == "test_script_ends_as_under_python"]
    for item in here:
        if item.originalname not in EACH_TIME and item not in ends[:ENDS_EACH_TIME]:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def runtime() -> Iterator[Path]:
    """Where servers listen; they end when they find it gone."""
    folder = Path(tempfile.mkdtemp(prefix="zhx-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def pair(tmp_path: Path, runtime: Path) -> Pair:
    """A folder for scripts, and the servers of this run."""
    return Pair(tmp_path, clean_environ(runtime))
