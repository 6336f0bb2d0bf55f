"""ShadowServe: keeps vLLM's KV cache in a shared store and brings it back without disturbing the engine.

`shadowserve.connector` is what vLLM loads; `shadowserve._core` is the control plane in C++. Importing
this package opens nothing and starts nothing: vLLM imports the connector in every one of its processes.
"""
