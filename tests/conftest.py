"""The order of the tests."""


def pytest_collection_modifyitems(items: list) -> None:
    """Whole recipes first: where tests run side by side, nothing then waits for the longest of them in the end."""
    items.sort(key=lambda item: item.get_closest_marker("end_to_end") is None)
