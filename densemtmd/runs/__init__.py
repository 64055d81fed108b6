"""From settings to folders: ``folder`` is what a run leaves behind, ``run`` trains and scores one, ``table`` many."""
