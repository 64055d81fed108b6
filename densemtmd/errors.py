"""The one kind of exception that is shown to people as a sentence, without a traceback."""


class UserError(ValueError):
    """A mistake that a person can mend.

    Its text is one sentence that names the file or key, says what was found and what was expected, and what to do. The
    tools print it on stderr and exit with 1; every other exception is a defect of the project and shows its traceback.
    """
