"""The package that a job brings to workers whose image does not have the program.

Made from the modules that are running, whether they come from a checkout or a wheel, so what was checked here is what
runs there: every direct dependency is pinned to the release installed here. fastText's language model goes along (its
licence keeps it out of the release, not out of one's own job), so workers need no way to fetch it.
"""

import importlib.metadata
import re
import shutil
from pathlib import Path
from typing import Final

import beam_pipeline
import classifiers
import transforms
from classifiers.model import LANGUAGE_FILE, find_language_model
from transforms.errors import ConfigError

PACKAGES: Final = (beam_pipeline, transforms, classifiers)
_LEFT_OUT: Final = shutil.ignore_patterns("__pycache__", "*.pyc", "*.nbi", "*.nbc", "lid.176.*", ".*")

_SETUP: Final = '''\
"""Counterpoise {version} as it ran where the job was submitted; written by `counterpoise submit`."""

from setuptools import find_packages, setup

setup(
    name="counterpoise",
    version="{version}",
    packages=find_packages(),
    package_data={{"": ["*", "*/*"]}},
    python_requires=">=3.10,<3.14",
    install_requires={requires!r},
    zip_safe=False,
)
'''


def write_package(folder: Path, *, with_language_model: bool) -> Path:
    """Put a project that Beam can stage into an empty folder; returns its setup.py.

    Raises:
      ConfigError: The program runs without being installed, so its dependencies are not known.
      ModelError: The language model is nowhere to be had.
    """
    for package in PACKAGES:
        home = Path(str(package.__file__)).parent
        shutil.copytree(home, folder / home.name, ignore=_LEFT_OUT)
    if with_language_model:
        shutil.copyfile(find_language_model().path, folder / "classifiers" / "models" / LANGUAGE_FILE)
    (folder / "README.md").write_text(f"Counterpoise {beam_pipeline.__version__}, for the workers of one job.\n")
    setup = folder / "setup.py"
    setup.write_text(_SETUP.format(version=beam_pipeline.__version__, requires=pinned()), encoding="utf-8")
    return setup


def pinned() -> list[str]:
    """The program's direct dependencies, each at the release that is installed.

    Raises:
      ConfigError: The program or one of them is not installed.
    """
    try:
        declared = importlib.metadata.requires("counterpoise") or []
    except importlib.metadata.PackageNotFoundError as error:
        raise ConfigError(
            ["the program is not installed, so its dependencies are not known: pip install -e '.[gcp]'"]
        ) from error
    found = []
    for requirement in declared:
        name = re.match(r"[\w.-]+", requirement)
        if name is None or "extra ==" in requirement:
            continue
        try:
            found.append(f"{name[0]}=={importlib.metadata.version(name[0])}")
        except importlib.metadata.PackageNotFoundError as error:
            raise ConfigError([f"{name[0]} is not installed, though setup.py asks for it: pip install -e ."]) from error
    return found
