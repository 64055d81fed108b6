"""Hands in depth pictures (section 4.4), from the files of the NYU and ICVL datasets to what the network sees.

In the order in which one reads it: ``camera`` (pixels and millimetres), ``sets`` (which keypoints each dataset annotates), ``frames`` (what
the readers give), ``nyu`` and ``icvl`` (the datasets' files), ``predictions`` (the field's files of answers), ``locate`` (where the hand
is), ``crop`` (the cube about it, and coordinates within), ``augment``.

Everywhere ``x`` points right, ``y`` up and ``z`` away from the camera, in millimetres; in a picture ``u`` points right and ``v`` down, in
pixels whose centres have whole numbers. A depth of 0 is a pixel without a reading.
"""
