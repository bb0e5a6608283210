"""The protos of the control plane and the Python code generated from them (by `protos/generate.py`); and `times`."""
