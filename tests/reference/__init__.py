"""Every op beside PyTorch, NumPy and JAX: values and gradients over shapes, dtypes, layouts and edge values."""
