"""What a run needs on TPUs that nobody has to have: the verb ``plan``.

``programs.py`` describes the programs of a step by shapes, ``compiler.py`` hands them to the real TPU compiler,
``hlo.py`` counts what chips send each other, ``roofline.py`` estimates time, ``verdict.py`` decides, ``table.py``
shows.
"""
