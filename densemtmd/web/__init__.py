"""A page to try networks on: ``server.py`` answers, ``page.html``, ``page.css`` and ``page.js`` are what a browser shows.

Nothing but Python's own HTTP server and the browser is needed, and nothing is loaded from elsewhere.
"""
