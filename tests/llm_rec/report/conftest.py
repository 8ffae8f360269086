"""The page of `page_data` for every test of the report."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def page_data() -> ModuleType:
    spec = importlib.util.spec_from_file_location("report_page_data", Path(__file__).with_name("page_data.py"))
    if spec is None or spec.loader is None:
        raise ImportError("page_data.py is missing")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
