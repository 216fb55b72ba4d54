"""A relocatable Python environment for the Python backend of a server that has none of ours.

Triton's parameter ``EXECUTION_ENV_PATH`` names a folder that looks like conda's: ``bin/activate``,
``bin/python3``, ``lib/libpython3.x.so.1.0`` and the standard library with our packages in it. All
models share one such folder, which Triton uses in place (an archive would be unpacked into /tmp at
every start).
"""
