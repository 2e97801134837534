"""What every test may ask for: the data that lies beside the checkout, and Hypothesis without a stop-watch."""

from pathlib import Path

import pytest
from hypothesis import settings

# Example times vary tenfold on a busy machine with two cores; pytest-timeout bounds each test as a whole.
settings.register_profile("counterpoise", deadline=None)
settings.load_profile("counterpoise")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of third-party text that is not ours to commit; without it the test is skipped."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("there is no ../shared/data beside the checkout (third-party text that is not committed)")
    return folder
