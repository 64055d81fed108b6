"""Worlds that are rendered, and written to disk in the formats of the real datasets, so that the real readers read them.

The street world, in the order in which one reads it: ``textures`` (what things are made of), ``scene`` (what stands in a street),
``streets`` (the camera: from a street to a picture), ``annotators`` (what seven people say of it, and the files they leave). The other
world is made of the same things: ``countryside`` (what stands in it), ``otherworld`` (what Stanford's annotators say of it, and the files).
What both have in common is in ``worlds``.
"""
