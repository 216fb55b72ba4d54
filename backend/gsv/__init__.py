"""GPT-SoVITS v4 for NVIDIA Triton: models, engines, stages and serving.

The folders follow the data: text → phoneme ids → semantic tokens → mel → wave.
Imports go down only (``serving`` → ``stages`` → ``engine`` | ``checkpoints`` → ``models`` |
``text`` → ``audio`` → ``constants``/``config``/``errors``); ``tests/test_floors.py`` enforces it.
"""

__version__ = "0.1.0"
