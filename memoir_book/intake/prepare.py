"""Not there yet."""


def add_arguments(parser) -> None: ...


def run(options) -> int:
    raise NotImplementedError
