"""`microtfm bench`: how fast the Transformer is, beside NumPy, PyTorch and JAX, and where its time goes.

Everything that is compared runs in a process of its own, and the processes take turns: A B A B …, never two at once.
"""
