"""What a person types: a module per verb with ``main(argv) -> exit code``, called by ``densemtmd <verb>`` and ``tools/<verb>.py``."""
