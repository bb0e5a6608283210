"""The protos of the control plane and the code generated from them by `protos/generate.py`; `addresses`, `times`."""
