"""torch and transformers, imported by whoever needs both before anything else of ours that does.

They make 300,000 objects that live as long as the process. To look for garbage among them while they come, and every
now and then afterwards, takes a tenth of the time to the first step; so nobody looks.
"""

import gc

collects = gc.isenabled()
gc.disable()
try:
    import torch
    import transformers.modeling_utils
finally:
    if collects:
        gc.freeze()
        gc.enable()

__all__ = ["torch", "transformers"]
